//! The process that carries a node's userspace WireGuard (hidden subcommand `wireguard-node`).
//!
//! One process per node, as the kernel's WireGuard is one instance per namespace: its CPU time
//! can be told apart, and a node's death does not take another one's tunnel. It lives until its
//! standard input ends, so a killed harness leaves none behind; its TUN devices go with it.

use super::{
    protocol::{self, Join, Joined, Key, Order, PeerConfig, Ready, Start},
    tunnel::Tunnels,
};
use anyhow::{Context, bail, ensure};
use gotatun::{
    device::{self, Device, DeviceBuilder, Peer},
    tun::{tun, tun_async_device::TunDevice},
    udp::socket::UdpSocketFactory,
    x25519::{PublicKey, StaticSecret},
};
use rand::RngCore;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::File,
    io::{BufRead, Write},
    os::fd::AsFd,
};
use tokio::sync::{mpsc, oneshot};

/// Bytes asked for the UDP socket's buffers; the kernel grants up to net.core.{r,w}mem_max.
const SOCKET_BUFFER: usize = 7 << 20;

pub(super) type Tunnel = Device<(UdpSocketFactory, TunDevice, TunDevice)>;

/// The whole life of the process: reads its orders from standard input, returns when that ends.
///
/// # Errors
/// What could not be made, or the fault that ended a tunnel; to be printed on standard error,
/// where the agent finds it.
pub fn wireguard_node_main() -> anyhow::Result<()> {
    let mut input = std::io::stdin().lock();
    let Some(start) = read::<Start>(&mut input)? else { return Ok(()) };
    // Before any other thread exists, so that all of them are in the namespace.
    let netns = File::open(&start.netns)
        .with_context(|| format!("opening the namespace {}", start.netns.display()))?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("entering the namespace {}", start.netns.display()))?;
    drop(input);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(start.workers.max(1) as usize)
        .thread_name("wireguard")
        .enable_all()
        .build()
        .context("starting threads")?;
    let result = runtime.block_on(serve(start));
    // The thread that waits for standard input must not keep the process.
    runtime.shutdown_background();
    result
}

async fn serve(start: Start) -> anyhow::Result<()> {
    let mut secret = [0; 32];
    rand::rng().fill_bytes(&mut secret);
    let secret = StaticSecret::from(secret);
    let mut builders = Vec::new();
    for tunnel in &start.tunnels {
        let builder: DeviceBuilder<UdpSocketFactory, TunDevice, TunDevice> = device::build()
            .with_default_udp()
            .udp_recv_buffer_size(SOCKET_BUFFER)
            .udp_send_buffer_size(SOCKET_BUFFER)
            .with_ip(tun(tunnel).with_context(|| format!("TUN device {}", tunnel.device))?)
            .with_private_key(secret.clone())
            .with_listen_port(tunnel.port);
        builders.push(builder);
    }
    write(&Ready { public_key: Key(PublicKey::from(&secret).to_bytes()) })?;
    drop(secret);
    let (mut join, mut orders, mut ended) = orders()?;
    let Some(Join { peers }) = join.recv().await else { return ended_with(ended.await) };
    ensure!(
        peers.len() == builders.len(),
        "peers for {} tunnels of {}",
        peers.len(),
        builders.len()
    );
    let joined = Joined { peers: peers.iter().map(Vec::len).sum() };
    let (fault, mut faults) = mpsc::channel::<String>(1);
    let mut tunnels = Tunnels::default();
    for ((builder, configs), tunnel) in builders.into_iter().zip(peers).zip(&start.tunnels) {
        let peers = configs.iter().cloned().map(peer).collect::<anyhow::Result<Vec<_>>>()?;
        let running: Tunnel =
            builder.with_peers(peers).build().await.with_context(|| {
                format!("starting {} on UDP port {}", tunnel.device, tunnel.port)
            })?;
        tunnels.add(running, configs, tunnel.device.clone(), fault.clone());
    }
    write(&joined)?;
    let mut later = true;
    loop {
        tokio::select! {
            result = &mut ended => return ended_with(result),
            Some(name) = faults.recv() => {
                bail!("{name} stopped: its TUN device or UDP socket failed")
            }
            order = orders.recv(), if later => match order {
                Some(order) => write(&Joined { peers: tunnels.obey(order).await? })?,
                None => later = false,
            },
        }
    }
}

/// Makes a TUN device with its MTU from the start: gotatun looks for changes every 3 s only, and
/// until then would pad packets beyond what fits through the link between nodes.
fn tun(tunnel: &protocol::Tunnel) -> anyhow::Result<TunDevice> {
    let mut config = tun::Configuration::default();
    config.tun_name(&tunnel.device).mtu(tunnel.mtu);
    Ok(TunDevice::from_tun_device(tun::create_as_async(&config)?)?)
}

fn ended_with(result: Result<anyhow::Result<()>, oneshot::error::RecvError>) -> anyhow::Result<()> {
    result.unwrap_or_else(|_| bail!("the thread that reads standard input is gone"))
}

type Orders = (mpsc::Receiver<Join>, mpsc::Receiver<Order>, oneshot::Receiver<anyhow::Result<()>>);

/// Reads the second line, then orders until the end of standard input.
fn orders() -> anyhow::Result<Orders> {
    let (join, joined) = mpsc::channel(1);
    let (order, ordered) = mpsc::channel(1);
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            let mut input = std::io::stdin().lock();
            let mut result = read::<Join>(&mut input).map(|order| {
                if let Some(order) = order {
                    // The receiver waits for this alone.
                    let _ = join.blocking_send(order);
                }
            });
            while result.is_ok() {
                match read::<Order>(&mut input) {
                    // The receiver is gone only when the process is ending.
                    Ok(Some(next)) => drop(order.blocking_send(next)),
                    Ok(None) => break,
                    Err(e) => result = Err(e),
                }
            }
            drop(join);
            // The receiver is gone only when the process is ending for another reason.
            let _ = end.send(result);
        })
        .context("starting a thread for standard input")?;
    Ok((joined, ordered, ended))
}

pub(super) fn peer(config: PeerConfig) -> anyhow::Result<Peer> {
    let mut peer = Peer::new(PublicKey::from(config.public_key.0)).with_endpoint(config.endpoint);
    for net in config.allowed_ips {
        // Two crates' types of the same thing; their texts are the same.
        peer = peer.with_allowed_ip(net.to_string().parse().context("allowed IP")?);
    }
    peer.keepalive = config.keepalive_s;
    Ok(peer)
}

/// One order; none at the end of input.
fn read<T: DeserializeOwned>(input: &mut impl BufRead) -> anyhow::Result<Option<T>> {
    let mut line = String::new();
    if input.read_line(&mut line).context("reading standard input")? == 0 {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).context("an order that is not understood")
}

fn write(answer: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line).and_then(|()| out.flush()).context("answering on standard output")
}
