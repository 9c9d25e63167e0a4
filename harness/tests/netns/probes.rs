//! The latency probes against traffic of known size: what they count is compared with the counters of
//! devices and of TCP itself, which know nothing of them.

use crate::support::{down, provider, space, topology, up};
use crate::traffic::{Counted, Flood, NEIGHBOURS, flood, ping_pong};
use cnibench::cluster::{Cluster, IpFamily};
use cnibench::netlink::Netns;
use cnibench_model::{
    Placement, Stage,
    probe::{Direction, DiscardKind, DropCount, StageStats},
};
use cnibench_probes::stages::{Scene, Seen, Stages, layout::Role};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

const TIMES: u64 = 3000;

/// Both ends of the cross-node placement of the first cluster of a run.
struct Ends {
    client: Netns,
    server: Netns,
    addr: IpAddr,
}

fn ends(run: &str, cluster: &dyn Cluster) -> Ends {
    let ends = cluster.ends(Placement::CrossNode).unwrap();
    let pods = !cluster.info().spec.to_string().starts_with("host");
    let [client, server] = if pods { ["n0p0", "n1p0"] } else { ["n0", "n1"] };
    Ends { client: space(run, client), server: space(run, server), addr: ends.server_addr }
}

async fn scene(cluster: &dyn Cluster) -> Scene {
    cluster.sights(Placement::CrossNode, false).await.unwrap_or_else(|e| panic!("{e}")).scene
}

fn of(seen: &Seen, direction: Direction) -> Vec<&StageStats> {
    seen.stages.iter().filter(|s| s.direction == direction).collect()
}

fn discarded(seen: &Seen, why: DiscardKind) -> u64 {
    seen.discards.iter().filter(|d| d.why == why).map(|d| d.count).sum()
}

/// Everything that was followed is somewhere: in a socket, dropped, discarded, or under way still.
fn nothing_is_lost(seen: &Seen) {
    let stages = seen.stages.iter().filter(|s| s.stage == Stage::ToSocket);
    let arrived: u64 = stages.map(|s| s.count).sum();
    let ends = [DiscardKind::IllegalEdge, DiscardKind::TooOld, DiscardKind::SkbReused];
    let lost: u64 = ends.map(|why| discarded(seen, why)).iter().sum();
    let packets = seen.packets;
    let ended = arrived + lost + packets.dropped + packets.under_way;
    assert_eq!(packets.followed, ended, "{}", brief(seen));
    assert!(packets.under_way <= 16_384, "{packets:?}");
}

/// Transactions one after the other: every stage of the path, no other, each for each transaction.
async fn stages_of(spec: &str, path: &[Stage]) {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let cluster = up(&provider, spec, &topology(2, 1, IpFamily::V4)).await;
    let Ends { client, server, addr } = ends(&run, &*cluster);
    let mut stages = Stages::attach(&scene(&*cluster).await).unwrap();
    let known = ping_pong(&client, &server, addr, TIMES, |on| stages.count(on).unwrap());
    let seen = stages.read().unwrap();
    let told = format!("{spec}: {known:?} {:#?}", brief(&seen));
    for (direction, end) in
        [(Direction::Request, known.client), (Direction::Response, known.server)]
    {
        let found: Vec<Stage> = of(&seen, direction).iter().map(|s| s.stage).collect();
        assert_eq!(found, path, "{direction}: {told}");
        for stats in of(&seen, direction) {
            let each = stats.count as f64 / TIMES as f64;
            match stats.stage {
                // A thread that has not slept yet is not woken; one that is preempted waits twice.
                Stage::WakeUp => assert!((0.5..1.5).contains(&each), "{told}"),
                // The client's last answer is followed by no request.
                Stage::Application if direction == Direction::Response => {
                    assert_eq!(stats.count, TIMES - 1, "{told}");
                }
                Stage::SocketToQdisc | Stage::ToSocket | Stage::Application => {
                    assert_eq!(stats.count, TIMES, "{told}");
                }
                // Of several steps, each once.
                _ => {
                    assert!(stats.count.is_multiple_of(TIMES) && each <= 6.0, "{told}");
                }
            }
            let histogram = stats.histogram.decode().unwrap();
            assert_eq!(histogram.len(), stats.count);
            let sum = histogram.mean() * histogram.len() as f64;
            assert!((sum / stats.sum_ns as f64 - 1.0).abs() < 0.02, "{told}");
        }
        assert_eq!(end.data_segments, TIMES, "{told}");
        end.matches_device(TIMES, &told);
    }
    assert_eq!(seen.packets.followed, 2 * TIMES, "{told}");
    assert_eq!((seen.retransmits, seen.packets.dropped), (0, 0), "{told}");
    assert_eq!(discarded(&seen, DiscardKind::IllegalEdge), 0, "{told}");
    nothing_is_lost(&seen);
    // The time between two neighbouring events is in one stage: the sum cannot be more than what
    // passed on the clock, and little of it is elsewhere.
    let sum: u64 = seen.stages.iter().map(|s| s.sum_ns).sum();
    let share = sum as f64 / known.spent.as_nanos() as f64;
    assert!((0.9..=1.01).contains(&share), "{share} {told}");
    drop(stages);
    down(cluster).await;
}

/// Without the histograms.
fn brief(seen: &Seen) -> String {
    let stage = |s: &StageStats| format!("{} {}: {} x", s.direction, s.stage, s.count);
    let stages: Vec<String> = seen.stages.iter().map(stage).collect();
    format!(
        "{stages:#?} {:?} {:?} {:?} {} retransmits",
        seen.drops, seen.discards, seen.packets, seen.retransmits
    )
}

const HOST: [Stage; 6] = [
    Stage::SocketToQdisc,
    Stage::PodDevice,
    Stage::Underlay,
    Stage::ToSocket,
    Stage::WakeUp,
    Stage::Application,
];

fn path(more: &[Stage]) -> Vec<Stage> {
    let mut path = [&HOST[..], more].concat();
    path.sort();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transaction_has_every_stage_on_flannel() {
    let forwarded = [Stage::Backlog, Stage::NodeForward, Stage::ToPod];
    let wrapped = [Stage::Encapsulation, Stage::Decapsulation];
    stages_of("flannel-vxlan", &path(&[&forwarded[..], &wrapped].concat())).await;
    stages_of("flannel-host-gw", &path(&forwarded)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transaction_has_every_stage_on_ebpf_which_skips_the_way_down() {
    let forwarded = [Stage::Backlog, Stage::NodeForward];
    let wrapped = [Stage::Encapsulation, Stage::Decapsulation];
    stages_of("ebpf", &path(&forwarded)).await;
    stages_of("ebpf-vxlan", &path(&[&forwarded[..], &wrapped].concat())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transaction_has_every_stage_on_the_host() {
    stages_of("host", &HOST).await;
}

/// A scene that is wrong about two devices: no time is given to stages after the first wrong step.
async fn wrong(spec: &str, swapped: [Role; 2]) {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let cluster = up(&provider, spec, &topology(2, 1, IpFamily::V4)).await;
    let Ends { client, server, addr } = ends(&run, &*cluster);
    let mut scene = scene(&*cluster).await;
    for device in &mut scene.devices {
        device.role = match device.role {
            r if r == swapped[0] => swapped[1],
            r if r == swapped[1] => swapped[0],
            r => r,
        };
    }
    let mut stages = Stages::attach(&scene).unwrap();
    let known = ping_pong(&client, &server, addr, TIMES, |on| stages.count(on).unwrap());
    let seen = stages.read().unwrap();
    let told = format!("{spec}: {known:?} {}", brief(&seen));
    assert_eq!(discarded(&seen, DiscardKind::IllegalEdge), 2 * TIMES, "{told}");
    let reached: Vec<Stage> = of(&seen, Direction::Request).iter().map(|s| s.stage).collect();
    let before = [Stage::SocketToQdisc, Stage::PodDevice, Stage::Backlog];
    assert!(reached.iter().all(|s| before.contains(s)), "{told}");
    nothing_is_lost(&seen);
    drop(stages);
    down(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_step_ends_the_track() {
    wrong("flannel-vxlan", [Role::Bridge, Role::Underlay]).await;
    wrong("ebpf", [Role::Port, Role::Underlay]).await;
}

fn send(client: &Netns, to: SocketAddr, datagrams: usize) {
    let socket = client.run_blocking(|| Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    for n in 0..datagrams {
        socket.send_to(&[7; 1000], to).unwrap();
        // So that no queue on the way is full.
        if n % 16 == 15 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    std::thread::sleep(Duration::from_millis(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn drops_have_the_kernels_reason_and_their_place() {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    for spec in ["flannel-vxlan", "ebpf"] {
        let cluster = up(&provider, spec, &topology(2, 1, IpFamily::V4)).await;
        let Ends { client, server, addr } = ends(&run, &*cluster);
        let listener = server.run_blocking(|| Ok(UdpSocket::bind((addr, 0))?)).unwrap();
        set_socket_recv_buffer_size(&listener, 20_000).unwrap();
        let open = listener.local_addr().unwrap();
        let closed = SocketAddr::new(addr, if open.port() == 9 { 10 } else { 9 });
        let barred = SocketAddr::new(addr, 999);
        let rules =
            "table inet t { chain c { type filter hook input priority 0; udp dport 999 drop; }; }";
        crate::support::says(&server, &["nft", rules]);
        send(&client, open, 1);
        let mut stages = Stages::attach(&scene(&*cluster).await).unwrap();
        stages.count(true).unwrap();
        send(&client, closed, 300);
        send(&client, barred, 200);
        send(&client, open, 400);
        stages.count(false).unwrap();
        let seen = stages.read().unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut buffer = [0; 2000];
        // One was there before counting began.
        let kept = std::iter::from_fn(|| listener.recv(&mut buffer).ok()).count() - 1;
        let mut expected = vec![
            ("NO_SOCKET", 300),
            ("NETFILTER_DROP", 200),
            ("SOCKET_RCVBUFF", 400 - kept as u64),
        ];
        expected.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        // Of what the kernel frees by itself now and then it gives no reason.
        let known = |reason: &str| reason != "NOT_SPECIFIED";
        let of_server = |d: &&DropCount| d.netns_role == "server" && known(&d.reason);
        let at_server = seen.drops.iter().filter(of_server);
        let found: Vec<_> = at_server.map(|d| (d.reason.as_str(), d.count)).collect();
        assert!(kept > 0 && kept < 390, "{kept}");
        assert_eq!(found, expected, "{spec}: {}", brief(&seen));
        drop(stages);
        down(cluster).await;
    }
}

/// 64 flows at full speed, and nothing is lost without being counted as lost.
async fn floods(spec: &str, what: Flood) {
    let provider = provider();
    let run = provider.run_id().as_str().to_owned();
    let cluster = up(&provider, spec, &topology(2, 1, IpFamily::V4)).await;
    let Ends { client, server, addr } = ends(&run, &*cluster);
    let mut stages = Stages::attach(&scene(&*cluster).await).unwrap();
    let mut seen = None;
    let known = flood(&client, &server, addr, what, |on| {
        stages.count(on).unwrap();
        // At once: what the closing of the sockets sends has the addresses of packets that were merged.
        seen = Some(stages.read().unwrap());
    });
    let seen = seen.unwrap();
    let told = format!("{spec}: {known:?} {} lost {}", brief(&seen), seen.lost_events);
    println!("{told}");
    let full = discarded(&seen, DiscardKind::MapFull);
    let payload = seen.packets.followed + full;
    assert!(payload > 1000, "{told}");
    let Counted { device_packets, bare_acks, .. } = known.client;
    let sent = device_packets - bare_acks;
    // Datagrams are sent by their threads: every one is followed. Segments are also sent by interrupts,
    // and there are kernels (that of the development machine) that run no tracing program in interrupts
    // of process 1, and do not count that. Seen: up to 5 % of what its share of the time would be.
    let unseen = sent as f64 * known.init_ran.div_duration_f64(known.spent) / 10.0;
    let unseen = NEIGHBOURS + if what == Flood::Tcp { unseen as u64 } else { 0 };
    assert!((sent.saturating_sub(unseen)..=sent).contains(&payload), "{sent} sent; {told}");
    // The receivers send no payload.
    assert!(of(&seen, Direction::Response).is_empty(), "{told}");
    nothing_is_lost(&seen);
    drop(stages);
    down(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_flows_at_full_speed_no_packet_is_lost_silently() {
    floods("flannel-vxlan", Flood::Tcp).await;
    floods("flannel-vxlan", Flood::Udp).await;
    floods("ebpf", Flood::Tcp).await;
}
