//! Watches the link between the nodes, or what enters one node, for canaries, and counts the traffic
//! that a cni claims to wrap pods' packets in.
//!
//! Owns the thread that reads frames and what is looked for in them. Says nothing of what that
//! proves (`encryption`).

use super::packet_socket::PacketSocket;
use crate::{cni::Wrapping, netlink::Netns};
use anyhow::{Context, anyhow};
use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Largest frame that is looked at whole: a superframe of segmentation offload with BIG TCP.
const LARGEST: usize = 1 << 20;
/// How long a reader without frames waits before it asks whether to stop.
const NAP: Duration = Duration::from_millis(20);

/// What to look for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Watch {
    /// Must not be seen.
    pub secret: Vec<u8>,
    /// Must be seen.
    pub control: Vec<u8>,
    /// Wrapped traffic is counted between these.
    pub nodes: BTreeSet<IpAddr>,
    /// What counts as wrapped.
    pub wrapping: Wrapping,
    /// Ends whose own headers must not be seen: what is too short for a canary is told by them.
    #[serde(default)]
    pub flows: Vec<(IpAddr, IpAddr)>,
}

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sightings {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames too large to be looked at whole.
    pub cut: u64,
    /// Frames the kernel had no room for.
    pub lost: u64,
    /// Frames with the secret in them.
    pub secret: u64,
    /// Headers of the first of these, readable.
    pub secret_example: Option<String>,
    /// Frames with the control in them.
    pub control: u64,
    /// Frames of wrapped traffic between nodes.
    pub wrapped_frames: u64,
    /// Bytes of these beyond the outer IP header and, for UDP, its header.
    pub wrapped_bytes: u64,
    /// Fragments between nodes: what they are part of is not known, so they are not counted above.
    pub fragments: u64,
    /// Frames with the headers of a watched flow in clear, at the front or inside.
    #[serde(default)]
    pub headers: u64,
}

impl Sightings {
    /// Frames with anything in them that should not be seen.
    pub fn in_clear(&self) -> u64 {
        self.secret.max(self.headers)
    }
}

/// When a watch ends by itself, and its socket is gone.
#[derive(Debug, Default)]
pub struct Bounds {
    /// Wrapped frames that are enough.
    frames: Option<u64>,
    /// The moment, once it is known.
    until: OnceLock<Instant>,
}

impl Bounds {
    /// Ends after so many wrapped frames, or at a moment that is said later.
    pub fn frames(most: u64) -> Arc<Self> {
        Arc::new(Self { frames: Some(most), until: OnceLock::new() })
    }

    /// Says when it ends; the first word counts.
    pub fn end_at(&self, moment: Instant) {
        let _ = self.until.set(moment);
    }

    fn are_over(&self, seen: &Sightings) -> bool {
        self.frames.is_some_and(|most| seen.wrapped_frames >= most)
            || self.until.get().is_some_and(|until| Instant::now() >= *until)
    }

    /// How long a reader may sleep.
    fn nap(&self) -> Duration {
        // While the end is not known yet it may become known, and be near.
        let left = self.until.get().map(|until| until.saturating_duration_since(Instant::now()));
        match (self.frames, left) {
            (None, None) => NAP,
            (Some(_), None) => NAP / 20,
            (_, Some(left)) => left.min(NAP),
        }
    }
}

/// A running watch.
pub struct Sniffer {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<anyhow::Result<Sightings>>,
}

impl Sniffer {
    /// Starts to watch every device of a namespace. Frames are seen from the moment this returns.
    /// Blocks for as long as it takes to open a socket.
    ///
    /// # Errors
    /// Why frames cannot be captured.
    pub fn start(underlay: &Netns, watch: Watch) -> anyhow::Result<Self> {
        Self::bounded(underlay, watch, Arc::default())
    }

    /// The same, until these bounds are reached.
    ///
    /// # Errors
    /// Why frames cannot be captured.
    pub fn bounded(underlay: &Netns, watch: Watch, bounds: Arc<Bounds>) -> anyhow::Result<Self> {
        Self::over(underlay.run_blocking(PacketSocket::open)?, watch, bounds)
    }

    /// Starts to watch what enters one device of the calling thread's namespace.
    ///
    /// # Errors
    /// Why frames cannot be captured.
    pub fn start_on(device: u32, watch: Watch) -> anyhow::Result<Self> {
        Self::over(PacketSocket::open_on(device)?, watch, Arc::default())
    }

    fn over(socket: PacketSocket, watch: Watch, bounds: Arc<Bounds>) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = thread::Builder::new()
            .name("sniffer".to_owned())
            .spawn(move || listen(&socket, &watch, &told, &bounds))
            .context("starting a thread for the sniffer")?;
        Ok(Self { stop, thread })
    }

    /// Reads what is still waiting, then stops. Everything that was received at its destination
    /// before this is called is counted: frames wait in the socket before they get there.
    ///
    /// # Errors
    /// Why frames could not be read.
    pub fn finish(self) -> anyhow::Result<Sightings> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().map_err(|_| anyhow!("the sniffer panicked"))?
    }
}

fn listen(
    socket: &PacketSocket,
    watch: &Watch,
    stop: &AtomicBool,
    bounds: &Bounds,
) -> anyhow::Result<Sightings> {
    let needles = Needles::of(watch);
    let mut seen = Sightings::default();
    let mut buffer = vec![0; LARGEST];
    loop {
        // Asked before reading: what comes after the question is not waited for.
        let mut last = stop.load(Ordering::Acquire);
        while let Some(length) = socket.next(&mut buffer).context("reading frames")? {
            let frame = &buffer[..length.min(LARGEST)];
            seen.cut += u64::from(length > LARGEST);
            note(&mut seen, frame, watch, &needles);
            if bounds.are_over(&seen) {
                last = true;
                break;
            }
        }
        if last || bounds.are_over(&seen) {
            seen.lost = socket.statistics().context("PACKET_STATISTICS")?.lost.into();
            return Ok(seen);
        }
        socket.wait(bounds.nap()).context("waiting for frames")?;
    }
}

/// What is looked for in every frame.
struct Needles<'a> {
    secret: Finder<'a>,
    control: Finder<'a>,
    /// Source and destination as they stand in an IP header, both ways of each flow; with the distance
    /// back to the number of what follows the header (RFC 791, 3.1; RFC 8200, 3).
    headers: Vec<(Finder<'static>, usize)>,
}

impl<'a> Needles<'a> {
    fn of(watch: &'a Watch) -> Self {
        let headers = watch.flows.iter().flat_map(|&(a, b)| [(a, b), (b, a)]);
        let headers = headers.filter_map(|pair| match pair {
            (IpAddr::V4(from), IpAddr::V4(to)) => Some(([from.octets(), to.octets()].concat(), 3)),
            (IpAddr::V6(from), IpAddr::V6(to)) => Some(([from.octets(), to.octets()].concat(), 2)),
            _ => None,
        });
        Self {
            secret: Finder::new(&watch.secret),
            control: Finder::new(&watch.control),
            headers: headers.map(|(pair, back)| (Finder::new(&pair).into_owned(), back)).collect(),
        }
    }

    /// Has the frame a header of a watched flow, with TCP or UDP behind it? What follows ESP's own
    /// header is not in clear.
    fn shows_headers(&self, frame: &[u8]) -> bool {
        let carries = |at: usize, back: usize| {
            let next = at.checked_sub(back).and_then(|at| frame.get(at));
            next.is_some_and(|next| [TCP, UDP].contains(next))
        };
        self.headers
            .iter()
            .any(|(finder, back)| finder.find_iter(frame).any(|at| carries(at, *back)))
    }
}

fn note(seen: &mut Sightings, frame: &[u8], watch: &Watch, needles: &Needles<'_>) {
    seen.frames += 1;
    seen.bytes += frame.len() as u64;
    let secret = needles.secret.find(frame).is_some();
    let headers = needles.shows_headers(frame);
    if secret || headers {
        seen.secret += u64::from(secret);
        seen.headers += u64::from(headers);
        seen.secret_example.get_or_insert_with(|| describe(frame));
    }
    seen.control += u64::from(needles.control.find(frame).is_some());
    let Some(packet) = Packet::parse(frame) else { return };
    if !watch.nodes.contains(&packet.from) || !watch.nodes.contains(&packet.to) {
        return;
    }
    if packet.fragment {
        seen.fragments += 1;
        return;
    }
    let wrapped = match (&watch.wrapping, packet.udp_ports()) {
        (Wrapping::Udp(ports), Some((from, to)))
            if ports.contains(&from) || ports.contains(&to) =>
        {
            packet.body.len().saturating_sub(UDP_HEADER)
        }
        (Wrapping::Esp, _) if packet.protocol == ESP => packet.body.len(),
        _ => return,
    };
    seen.wrapped_frames += 1;
    seen.wrapped_bytes += wrapped as u64;
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ESP: u8 = 50;
const IPV6_FRAGMENT: u8 = 44;
const UDP_HEADER: usize = 8;

/// The outermost IP packet of an Ethernet frame.
#[derive(Debug, PartialEq, Eq)]
struct Packet<'a> {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    /// A part of a larger packet.
    fragment: bool,
    /// Behind the IP header, without the frame's padding.
    body: &'a [u8],
}

impl<'a> Packet<'a> {
    /// None for what is not IP (RFC 791, RFC 8200); IPv6 extension headers count as protocols.
    fn parse(frame: &'a [u8]) -> Option<Self> {
        let (ethernet, ip) = frame.split_at_checked(14)?;
        match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
            0x0800 => {
                let header = ip.first_chunk::<20>()?;
                let length = usize::from(header[0] & 0xf) * 4;
                // A superframe beyond 64 KiB has a total length of 0 (BIG TCP).
                let total = match usize::from(u16::from_be_bytes([header[2], header[3]])) {
                    0 => ip.len(),
                    total => total.min(ip.len()),
                };
                let address = |at: usize| -> Option<IpAddr> {
                    let octets: [u8; 4] = header.get(at..at + 4)?.try_into().ok()?;
                    Some(Ipv4Addr::from(octets).into())
                };
                Some(Self {
                    from: address(12)?,
                    to: address(16)?,
                    protocol: header[9],
                    // More fragments, or an offset (RFC 791, 3.1).
                    fragment: u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0,
                    body: ip.get(length..total)?,
                })
            }
            0x86dd => {
                let (header, body) = ip.split_first_chunk::<40>()?;
                let length = match usize::from(u16::from_be_bytes([header[4], header[5]])) {
                    0 => body.len(),
                    length => length.min(body.len()),
                };
                let address = |at: usize| -> Option<IpAddr> {
                    let octets: [u8; 16] = header.get(at..at + 16)?.try_into().ok()?;
                    Some(Ipv6Addr::from(octets).into())
                };
                Some(Self {
                    from: address(8)?,
                    to: address(24)?,
                    protocol: header[6],
                    fragment: header[6] == IPV6_FRAGMENT,
                    body: body.get(..length)?,
                })
            }
            _ => None,
        }
    }

    fn ports(&self) -> Option<(u16, u16)> {
        let ports = self.body.first_chunk::<4>()?;
        let port = |at| u16::from_be_bytes([ports[at], ports[at + 1]]);
        Some((port(0), port(2)))
    }

    fn udp_ports(&self) -> Option<(u16, u16)> {
        if self.protocol == UDP { self.ports() } else { None }
    }
}

/// "UDP 10.0.0.1:53 > 10.0.0.2:99, 120 bytes", for people.
fn describe(frame: &[u8]) -> String {
    let bytes = frame.len();
    let Some(packet) = Packet::parse(frame) else { return format!("not IP, {bytes} bytes") };
    let Packet { from, to, protocol, .. } = packet;
    match (protocol, packet.ports()) {
        _ if packet.fragment => format!("a fragment {from} > {to}, {bytes} bytes"),
        (TCP, Some((a, b))) => format!("TCP {from} port {a} > {to} port {b}, {bytes} bytes"),
        (UDP, Some((a, b))) => format!("UDP {from} port {a} > {to} port {b}, {bytes} bytes"),
        _ => format!("IP protocol {protocol} {from} > {to}, {bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ethernet frame with IPv4 and UDP from 10.0.0.1 to 10.0.0.2, padded to 60 bytes.
    fn udp4(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend((28 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend(from.to_be_bytes());
        frame.extend(to.to_be_bytes());
        frame.extend((8 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(payload);
        frame.resize(frame.len().max(60), 0);
        frame
    }

    fn watch(wrapping: Wrapping) -> Watch {
        Watch {
            secret: b"secret".to_vec(),
            control: b"control".to_vec(),
            nodes: ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"]
                .map(|a| a.parse().unwrap())
                .into(),
            wrapping,
            flows: Vec::new(),
        }
    }

    fn sightings(watch: &Watch, frames: &[Vec<u8>]) -> Sightings {
        let needles = Needles::of(watch);
        let mut seen = Sightings::default();
        frames.iter().for_each(|f| note(&mut seen, f, watch, &needles));
        seen
    }

    #[test]
    fn headers_of_a_flow_are_seen_in_front_and_inside_but_not_before_esp() {
        let ends = ("10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap());
        let watch = Watch { flows: vec![ends], ..watch(Wrapping::Esp) };
        let plain = udp4(1, 2, b"x");
        let mut sealed = plain.clone();
        sealed[23] = ESP;
        let mut other = plain.clone();
        other[33] = 9;
        // As VXLAN carries it: the whole frame behind another's headers.
        let mut inside = other.clone();
        inside.extend([0; 8]);
        inside.extend(&plain);
        let seen = sightings(&watch, &[plain, sealed, other, inside]);
        assert_eq!((seen.headers, seen.secret, seen.in_clear()), (2, 0, 2));
        assert!(seen.secret_example.unwrap().starts_with("UDP 10.0.0.1"));
    }

    #[test]
    fn bounds_end_a_watch_by_frames_or_at_a_moment() {
        let seen = |wrapped_frames| Sightings { wrapped_frames, ..Sightings::default() };
        let bounds = Bounds::frames(3);
        assert!(!bounds.are_over(&seen(2)) && bounds.are_over(&seen(3)));
        bounds.end_at(Instant::now() + Duration::from_secs(60));
        assert!(!bounds.are_over(&seen(2)));
        assert!(!Bounds::default().are_over(&seen(u64::MAX)));
        let past = Bounds::default();
        past.end_at(Instant::now());
        assert!(past.are_over(&seen(0)));
    }

    #[test]
    fn canaries_and_wrapped_bytes_are_counted() {
        let watch = watch(Wrapping::Udp([51820].into()));
        let seen = sightings(
            &watch,
            &[
                udp4(51820, 51820, &[7; 100]),
                udp4(51820, 4000, b"x"),
                udp4(1, 2, b"..control.."),
                udp4(1, 2, b"..secret"),
                vec![0; 10],
            ],
        );
        assert_eq!((seen.wrapped_frames, seen.wrapped_bytes), (2, 101), "padding is not counted");
        assert_eq!((seen.secret, seen.control, seen.frames), (1, 1, 5));
        let example = seen.secret_example.unwrap();
        assert_eq!(example, "UDP 10.0.0.1 port 1 > 10.0.0.2 port 2, 60 bytes");
    }

    #[test]
    fn esp_over_ipv6_is_counted_between_nodes_only() {
        let watch = watch(Wrapping::Esp);
        let esp6 = |to: &str| {
            let mut frame = vec![0; 12];
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 50, ESP, 64]);
            frame.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
            frame.extend(to.parse::<Ipv6Addr>().unwrap().octets());
            frame.extend([1; 50]);
            frame
        };
        let seen = sightings(&watch, &[esp6("fd00::2"), esp6("fd00::3"), udp4(1, 2, b"x")]);
        assert_eq!((seen.wrapped_frames, seen.wrapped_bytes), (1, 50));
    }

    #[test]
    fn fragments_are_not_taken_for_what_their_bytes_look_like() {
        let mut later = udp4(51820, 51820, b"x");
        later[21] = 1;
        let seen = sightings(&watch(Wrapping::Udp([51820].into())), &[later]);
        assert_eq!((seen.wrapped_frames, seen.fragments), (0, 1));
    }

    #[test]
    fn cut_off_headers_are_no_packets() {
        let frame = udp4(1, 2, b"hello");
        for length in 0..34 {
            assert_eq!(Packet::parse(&frame[..length]), None, "{length} bytes");
        }
        assert!(describe(&frame[..20]).starts_with("not IP"));
    }
}
