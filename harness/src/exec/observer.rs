//! One `cnibench node-observer` on a node, seen from the controller.

use super::{AgentError, Link, wire::Wire};
use crate::{
    observe::protocol::{Device, PROTOCOL_VERSION, Reply, Request, Station, Which},
    proof::sniffer::{Sightings, Watch},
};
use cnibench_model::{NodeCpu, probe::ProbeProgram};
use cnibench_probes::stages::{Scene, Seen};
use cnibench_workloads::{observed::Observed, protocol::FaultKind};
use std::{net::IpAddr, time::Duration};

/// How long one answer may take, over a slow API server too.
const ANSWER: Duration = Duration::from_secs(15);

/// A running observer.
#[derive(Debug)]
pub struct Observer {
    wire: Wire,
    machine: String,
    kernel: String,
    sees_kthreads: bool,
    devices: Vec<Device>,
    /// A window was asked for, and did not come.
    owes: bool,
}

impl Observer {
    /// Shakes hands with an observer that was just started in a place.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn start(place: &str, link: Link) -> Result<Self, AgentError> {
        let mut wire = Wire::new(place, link);
        match ask(&mut wire, &Request::Hello).await? {
            Reply::Hello {
                protocol: PROTOCOL_VERSION,
                machine,
                kernel,
                sees_kthreads,
                devices,
                ..
            } => Ok(Self { wire, machine, kernel, sees_kthreads, devices, owes: false }),
            other => Err(confused(&wire, &other)),
        }
    }

    /// False where an answer did not come: what it says next may be that.
    pub fn is_answering(&self) -> bool {
        !self.owes
    }

    /// Where it runs, for people.
    pub fn place(&self) -> &str {
        self.wire.place()
    }

    /// The machine's boot id.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// The kernel's release.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// False where the time of kernel threads is part of `system`.
    pub fn sees_kthreads(&self) -> bool {
        self.sees_kthreads
    }

    /// The node's devices when it was started.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The node's devices with their counters now.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn counters(&mut self) -> Result<Vec<Device>, AgentError> {
        match ask(&mut self.wire, &Request::Counters).await? {
            Reply::Counters { devices } => Ok(devices),
            other => Err(confused(&self.wire, &other)),
        }
    }

    /// Begins to measure the node's CPU time.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn open_cpu(&mut self) -> Result<(), AgentError> {
        match ask(&mut self.wire, &Request::OpenCpu).await? {
            Reply::CpuOpened => Ok(()),
            other => Err(confused(&self.wire, &other)),
        }
    }

    /// The node's CPU time since [`Observer::open_cpu`].
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn close_cpu(&mut self) -> Result<NodeCpu, AgentError> {
        match ask(&mut self.wire, &Request::CloseCpu).await? {
            Reply::Cpu { node } => Ok(node),
            other => Err(confused(&self.wire, &other)),
        }
    }

    /// Begins to measure the node's CPU time over a window that opens in `after_s` and lasts `for_s`
    /// seconds; [`Observer::measured_cpu`] gives it.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn measure_cpu(&mut self, after_s: f64, for_s: f64) -> Result<(), AgentError> {
        self.owes = true;
        self.wire.say(&Request::MeasureCpu { after_s, for_s }).await
    }

    /// Waits for the end of that window.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn measured_cpu(&mut self, patience: Duration) -> Result<Observed, AgentError> {
        match hear(&mut self.wire, patience).await? {
            Reply::CpuMeasured { opened, node } => {
                self.owes = false;
                Ok(Observed { opened, node })
            }
            other => Err(confused(&self.wire, &other)),
        }
    }

    /// Watches what enters a device and gives its name. Every frame is seen from when this returns.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn sniff(&mut self, device: Which, watch: Watch) -> Result<String, AgentError> {
        match ask(&mut self.wire, &Request::Sniff { device, watch }).await? {
            Reply::Sniffing { device } => Ok(device),
            other => Err(confused(&self.wire, &other)),
        }
    }

    /// Ends the watch and gives what was seen.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn sightings(&mut self) -> Result<Sightings, AgentError> {
        match ask(&mut self.wire, &Request::Stop).await? {
            Reply::Sightings(seen) => Ok(seen),
            other => Err(confused(&self.wire, &other)),
        }
    }

    /// What latency probes are told of this node and of a pod on it.
    ///
    /// # Errors
    /// [`AgentError`]: no pod here has this address, for example.
    pub async fn station(
        &mut self,
        pod: Option<IpAddr>,
        node: IpAddr,
    ) -> Result<Station, AgentError> {
        match ask(&mut self.wire, &Request::Station { pod, node }).await? {
            Reply::Station(station) => Ok(station),
            other => Err(confused(&self.wire, &other)),
        }
    }

    /// Attaches the latency probes.
    ///
    /// # Errors
    /// [`AgentError`] with what the kernel or the pod lacks.
    pub async fn probe(&mut self, scene: Scene) -> Result<Vec<ProbeProgram>, AgentError> {
        match ask(&mut self.wire, &Request::Probe { scene }).await? {
            Reply::Probing { programs } => Ok(programs),
            other => Err(confused(&self.wire, &other)),
        }
    }

    /// Counts stages in the window of the next trial (`Stages::count_window`).
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn count_window(
        &mut self,
        after: Duration,
        length: Duration,
    ) -> Result<(), AgentError> {
        let (after_s, for_s) = (after.as_secs_f64(), length.as_secs_f64());
        match ask(&mut self.wire, &Request::Count { after_s, for_s }).await? {
            Reply::Counting => Ok(()),
            other => Err(confused(&self.wire, &other)),
        }
    }

    /// What was counted. Detaches the probes.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn counted(&mut self) -> Result<Seen, AgentError> {
        match ask(&mut self.wire, &Request::Unprobe).await? {
            Reply::Counted(seen) => Ok(*seen),
            other => Err(confused(&self.wire, &other)),
        }
    }

    /// Ends the observer: closes its input, and kills it if that is not enough.
    pub async fn stop(self) {
        self.wire.stop().await;
    }
}

async fn ask(wire: &mut Wire, request: &Request) -> Result<Reply, AgentError> {
    wire.say(request).await?;
    hear(wire, ANSWER).await
}

async fn hear(wire: &mut Wire, patience: Duration) -> Result<Reply, AgentError> {
    match wire.hear(patience).await? {
        Reply::Fault { message } => Err(AgentError::Fault {
            place: wire.place().to_owned(),
            kind: FaultKind::System,
            message,
        }),
        reply => Ok(reply),
    }
}

fn confused(wire: &Wire, reply: &Reply) -> AgentError {
    wire.confused(&format!("{reply:?}"))
}
