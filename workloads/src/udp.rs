//! What the UDP workloads share: listening, waking up now and then, saying that this was all.

use crate::{
    clock::{self, SECOND},
    error::{Doing, TrialError},
    hello::{self, Control},
    options,
    protocol::Task,
    reins::Reins,
};
use rustix::io::Errno;
use socket2::Socket;
use std::{net::SocketAddr, sync::Arc};

/// How often a sender says that this was all, and the pause in between. Goodbyes are not
/// answered: even at 50 % loss all are lost once in a thousand times, and then the receiver goes
/// by its own clock.
const GOODBYES: u32 = 10;
const GOODBYE_PAUSE: u64 = SECOND / 500;

/// Binds (port 0: one of the kernel's choice), tells the port, and accepts every flow.
pub(crate) fn accept_all(
    task: &Task,
    bind: SocketAddr,
    reins: &Reins,
    listening: &mut dyn FnMut(u16),
) -> Result<Vec<Arc<Socket>>, TrialError> {
    let listener = options::udp(bind.ip(), &task.params)?;
    options::bind(&listener, bind)?;
    // Only now, so that the kernel did not choose a port that somebody else shares.
    listener.set_reuse_address(true).doing("setting SO_REUSEADDR")?;
    let listener = reins.hold(listener);
    listening(options::local_address(&listener)?.port());
    hello::udp_accept(task, reins, &listener)
}

/// The server's go on every flow, twice: it may get lost, and the client asks again only after a while.
pub(crate) fn send_go(flows: &[Arc<Socket>]) {
    for socket in flows.iter().chain(flows) {
        Control::Go.send(socket);
    }
}

/// Says that this was all, with the number of datagrams sent in the window.
pub(crate) fn say_goodbye(socket: &Socket, sent: u64, reins: &Reins) {
    for _ in 0..GOODBYES {
        if reins.stopped() {
            return;
        }
        Control::End(sent).send(socket);
        clock::sleep_until(clock::now() + GOODBYE_PAUSE);
    }
}

/// A send or receive failed: ECONNREFUSED is the peer's kernel saying that its socket is gone.
pub(crate) fn broken(flow: u32, doing: &str, e: Errno) -> TrialError {
    match e {
        Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH => {
            TrialError::PeerSilent(format!("flow {flow}: {doing}: {e}; the peer's socket is gone"))
        }
        e => TrialError::system(format!("flow {flow}: {doing}"), e),
    }
}
