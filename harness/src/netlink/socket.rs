//! A blocking netlink socket that sends many requests in one system call.
//!
//! The kernel answers a netlink request before `send` returns, so a blocking socket never waits;
//! a batch of a hundred routes costs one system call instead of a hundred turns of an event loop.
//! A socket belongs to the network namespace it was opened in, whoever uses it afterwards.

use anyhow::{Context as _, bail};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::set_socket_send_buffer_size_force;
use std::{io, os::fd::RawFd};

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// `NLMSG_ERROR` and `NLMSG_DONE` of linux/netlink.h.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_ACK_TLVS`: the answer carries the kernel's own words.
const ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`.
const ATTR_MSG: u16 = 1;
/// Requests in one `send`: every one of them may be answered by an error, and all answers must
/// fit into the receive buffer (each takes about 800 bytes of its 212,992).
const PER_SEND: usize = 128;
/// Bytes of a transaction that every socket has room for (net.core.wmem_default, less its own part).
const USUAL_SEND: usize = 64 << 10;

/// One request: type, flags (without REQUEST) and the bytes behind the header.
#[derive(Debug, Clone)]
pub struct Request {
    /// Message type.
    pub kind: u16,
    /// `NLM_F_*` beyond `NLM_F_REQUEST` and `NLM_F_ACK`.
    pub flags: u16,
    /// Everything behind `struct nlmsghdr`.
    pub body: Vec<u8>,
    /// What it is, for the error: "route 10.244.1.0/24 via 10.66.0.2".
    pub what: String,
}

/// A refused request, with the kernel's reason.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}{}", detail.as_deref().map(|d| format!(" ({d})")).unwrap_or_default())]
pub struct Refused {
    /// What was asked for.
    pub what: String,
    /// The kernel's error number; part of the text, so not a source of its own.
    pub cause: io::Error,
    /// The kernel's words, if it gave any.
    pub detail: Option<String>,
}

impl Refused {
    /// The error number.
    pub fn errno(&self) -> Option<i32> {
        self.cause.raw_os_error()
    }
}

/// A netlink socket of one protocol.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// One message of an answer.
#[derive(Debug)]
struct Answer {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The system call's, e.g. when the kernel lacks the protocol.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Errors come with the kernel's words and without a copy of the request.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Carries out every request, in order, and stops at none: all refusals are returned.
    ///
    /// # Errors
    /// When the socket itself fails.
    pub fn apply(&mut self, requests: &[Request]) -> anyhow::Result<Vec<Refused>> {
        let mut refused = Vec::new();
        for chunk in requests.chunks(PER_SEND) {
            let first = self.sequence + 1;
            let mut bytes = Vec::with_capacity(chunk.iter().map(|r| r.body.len() + HEADER).sum());
            for (i, request) in chunk.iter().enumerate() {
                // Success is silent but for the last: its answer says that all were looked at.
                let ack = if i + 1 == chunk.len() { NLM_F_ACK } else { 0 };
                self.encode(request, ack, &mut bytes);
            }
            self.socket.send(&bytes, 0).context("netlink: send")?;
            let last = self.sequence;
            let mut answered = false;
            for answer in self.pending()? {
                if answer.kind != ERROR || !(first..=last).contains(&answer.sequence) {
                    continue;
                }
                answered |= answer.sequence == last;
                if let Some((cause, detail)) = verdict(&answer) {
                    let what = chunk[(answer.sequence - first) as usize].what.clone();
                    refused.push(Refused { what, cause, detail });
                }
            }
            if !answered && refused.is_empty() {
                bail!("netlink: the kernel did not answer {}", chunk[chunk.len() - 1].what);
            }
        }
        Ok(refused)
    }

    /// Sends requests as one piece and returns the first refusal: for nf_tables, whose batches
    /// hold as a whole or not at all.
    ///
    /// # Errors
    /// The first refusal, or the socket's error.
    pub fn transact(&mut self, requests: &[Request]) -> anyhow::Result<()> {
        let first = self.sequence + 1;
        let mut bytes = Vec::new();
        for request in requests {
            self.encode(request, 0, &mut bytes);
        }
        // One message must fit into the socket's buffer (netlink_sendmsg: EMSGSIZE).
        if bytes.len() > USUAL_SEND {
            set_socket_send_buffer_size_force(&self.socket, 2 * bytes.len())
                .context("netlink: no room for a transaction of this size")?;
        }
        self.socket.send(&bytes, 0).context("netlink: send")?;
        let mut answered = false;
        for answer in self.pending()? {
            if answer.kind != ERROR || answer.sequence < first {
                continue;
            }
            answered = true;
            if let Some((cause, detail)) = verdict(&answer) {
                let what = requests[(answer.sequence - first) as usize].what.clone();
                return Err(Refused { what, cause, detail }.into());
            }
        }
        if !answered {
            bail!("netlink: the kernel did not answer a transaction");
        }
        Ok(())
    }

    /// Asks and returns the bodies of all answers of a dump or of a single object.
    ///
    /// # Errors
    /// A [`Refused`], or the socket's error.
    pub fn ask(&mut self, request: &Request) -> anyhow::Result<Vec<(u16, Vec<u8>)>> {
        let dump = request.flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut bytes = Vec::new();
        self.encode(request, if dump { 0 } else { NLM_F_ACK }, &mut bytes);
        self.socket.send(&bytes, 0).context("netlink: send")?;
        let mut found = Vec::new();
        loop {
            let answers = self.receive(0)?;
            for answer in answers.into_iter().filter(|a| a.sequence == self.sequence) {
                match answer.kind {
                    ERROR => {
                        return match verdict(&answer) {
                            None => Ok(found),
                            Some((cause, detail)) => {
                                Err(Refused { what: request.what.clone(), cause, detail }.into())
                            }
                        };
                    }
                    DONE => return Ok(found),
                    kind => found.push((kind, answer.body)),
                }
            }
        }
    }

    fn encode(&mut self, request: &Request, extra: u16, out: &mut Vec<u8>) {
        self.sequence += 1;
        let start = out.len();
        let flags = request.flags | extra | netlink_packet_core::NLM_F_REQUEST;
        out.extend(((HEADER + request.body.len()) as u32).to_ne_bytes());
        out.extend(request.kind.to_ne_bytes());
        out.extend(flags.to_ne_bytes());
        out.extend(self.sequence.to_ne_bytes());
        out.extend(0u32.to_ne_bytes());
        out.extend(&request.body);
        out.resize(start + (out.len() - start).next_multiple_of(4), 0);
    }

    /// Every answer that already waits.
    fn pending(&mut self) -> anyhow::Result<Vec<Answer>> {
        let mut all = Vec::new();
        loop {
            match self.receive(libc::MSG_DONTWAIT) {
                Ok(answers) => all.extend(answers),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(all),
                Err(e) => return Err(e).context("netlink: receive"),
            }
        }
    }

    fn receive(&mut self, flags: RawFd) -> io::Result<Vec<Answer>> {
        // Dumps are cut by the kernel to at most 32 KiB (netlink_dump in af_netlink.c).
        let mut buffer = Vec::with_capacity(32 << 10);
        loop {
            match self.socket.recv(&mut buffer, flags) {
                Ok(_) => return Ok(split(&buffer)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Cuts a datagram into messages; stops at the first that does not fit.
fn split(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let (Some(length), Some(kind), Some(flags), Some(sequence)) =
        (u32_at(bytes, 0), u16_at(bytes, 4), u16_at(bytes, 6), u32_at(bytes, 8))
    {
        let length = length as usize;
        let Some(body) = bytes.get(HEADER..length) else { break };
        answers.push(Answer { kind, flags, sequence, body: body.to_vec() });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}

/// None for an acknowledgement, else the error with the kernel's words.
fn verdict(answer: &Answer) -> Option<(io::Error, Option<String>)> {
    let code = u32_at(&answer.body, 0)? as i32;
    if code == 0 {
        return None;
    }
    let mut detail = None;
    // Behind the code stands the header of the request (NETLINK_CAP_ACK), then attributes.
    let mut rest = answer.body.get(4 + HEADER..).unwrap_or_default();
    if answer.flags & ACK_TLVS == 0 {
        rest = &[];
    }
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let Some(value) = rest.get(4..length as usize) else { break };
        if kind == ATTR_MSG {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            detail = Some(String::from_utf8_lossy(text).into_owned());
        }
        rest = rest.get((length as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    Some((io::Error::from_raw_os_error(-code), detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut out = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(flags.to_ne_bytes());
        out.extend(sequence.to_ne_bytes());
        out.extend([0; 4]);
        out.extend(body);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    #[test]
    fn an_error_carries_the_kernels_words() {
        let mut body = (-17i32).to_ne_bytes().to_vec();
        body.extend([0; HEADER]);
        body.extend([9, 0, 1, 0]);
        body.extend(b"busy\0");
        let bytes = [message(ERROR, ACK_TLVS, 7, &body), message(ERROR, 0, 8, &[0; 20])].concat();
        let answers = split(&bytes);
        assert_eq!(answers.len(), 2);
        let (error, detail) = verdict(&answers[0]).unwrap();
        assert_eq!((error.raw_os_error(), detail.as_deref()), (Some(17), Some("busy")));
        assert!(verdict(&answers[1]).is_none());
    }

    #[test]
    fn rubbish_does_not_loop_or_panic() {
        for length in 0..40 {
            split(&vec![0xff; length]);
            split(&vec![0; length]);
        }
        let short = message(ERROR, ACK_TLVS, 1, &[0xff; 5]);
        for answer in split(&short) {
            verdict(&answer);
        }
    }
}
