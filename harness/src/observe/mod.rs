//! The node observer: what only somebody with a node's own eyes can see of it.
//!
//! Runs in a node's network namespace (in Kubernetes a privileged pod with hostNetwork and hostPID)
//! and speaks [`protocol`] over its standard input and output: device counters, CPU time with kernel
//! threads, frames that enter the underlay's device. Changes nothing. `cnibench node-observer` calls
//! [`run`]; the controller's side is [`crate::exec::Observer`]. Judging is for proofs.

mod devices;
pub mod protocol;
mod station;

use crate::proof::sniffer::Sniffer;
use anyhow::{Context as _, anyhow};
use cnibench_probes::stages::Stages;
use cnibench_workloads::{
    clock,
    node_cpu::{self, CpuWindow},
};
use protocol::{PROTOCOL_VERSION, Reply, Request};
use std::{
    io::{self, BufRead, Write},
    time::Duration,
};

/// The longest request line; a watch with the largest canaries fits many times.
const MAX_LINE: u64 = 1 << 20;

/// Answers requests until the input ends.
///
/// # Errors
/// When the input cannot be read or the output cannot be written: the controller is gone.
pub fn run(mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut eyes = Eyes::default();
    loop {
        let mut line = Vec::new();
        match io::Read::take(&mut input, MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let reply = match serde_json::from_slice(&line) {
            Ok(request) => eyes.look(request),
            Err(e) => Err(anyhow!("this line is no request of protocol {PROTOCOL_VERSION}: {e}")),
        };
        let reply = reply.unwrap_or_else(|e| Reply::Fault { message: format!("{e:#}") });
        serde_json::to_writer(&mut output, &reply)?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
}

/// What is being watched.
#[derive(Default)]
struct Eyes {
    cpu: Option<CpuWindow>,
    sniffer: Option<Sniffer>,
    probes: Option<Stages>,
}

impl Eyes {
    fn look(&mut self, request: Request) -> anyhow::Result<Reply> {
        Ok(match request {
            Request::Hello => Reply::Hello {
                protocol: PROTOCOL_VERSION,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                machine: node_cpu::machine().context("the boot id")?,
                kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
                sees_kthreads: CpuWindow::prepare().context("CPU times")?.sees_kthreads(),
                devices: devices::list()?,
            },
            Request::Counters => Reply::Counters { devices: devices::list()? },
            Request::OpenCpu => {
                let mut window = CpuWindow::prepare().context("CPU times")?;
                window.open(clock::now()).context("CPU times")?;
                self.cpu = Some(window);
                Reply::CpuOpened
            }
            Request::CloseCpu => {
                let window = self.cpu.take().context("no CPU window was opened")?;
                let (_, node) = window.close().context("CPU times")?;
                Reply::Cpu { node }
            }
            Request::MeasureCpu { after_s, for_s } => {
                let (opened, node) =
                    node_cpu::measure(after_s.max(0.0), for_s.max(0.0)).context("CPU times")?;
                Reply::CpuMeasured { opened, node }
            }
            Request::Sniff { device, watch } => {
                if let Some(before) = self.sniffer.take() {
                    before.finish()?;
                }
                let link = devices::find(&device)?;
                self.sniffer = Some(Sniffer::start_on(link.index, watch)?);
                Reply::Sniffing { device: link.name }
            }
            Request::Station { pod, node } => Reply::Station(station::look(pod, node)?),
            Request::Probe { scene } => {
                self.probes = None;
                let attached = self.probes.insert(Stages::attach(&scene)?);
                Reply::Probing { programs: attached.programs().to_vec() }
            }
            Request::Count { after_s, for_s } => {
                let probes = self.probes.as_mut().context("no probes are attached")?;
                let seconds = |s: f64| Duration::try_from_secs_f64(s).context("a time");
                probes.count_window(seconds(after_s)?, seconds(for_s)?)?;
                Reply::Counting
            }
            Request::Unprobe => {
                let probes = self.probes.take().context("no probes are attached")?;
                Reply::Counted(Box::new(probes.read()?))
            }
            Request::Stop => {
                let sniffer = self.sniffer.take().context("nothing is being watched")?;
                Reply::Sightings(sniffer.finish()?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(lines: &str) -> Vec<Reply> {
        let mut output = Vec::new();
        run(lines.as_bytes(), &mut output).unwrap();
        let output = String::from_utf8(output).unwrap();
        output.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    #[test]
    fn it_says_who_it_is_and_counts_devices() {
        let replies = ask("{\"op\":\"hello\"}\n\n{\"op\":\"counters\"}\n");
        let [Reply::Hello { machine, kernel, devices, .. }, Reply::Counters { devices: later }] =
            replies.as_slice()
        else {
            panic!("{replies:?}")
        };
        assert!(machine.len() == 36 && !kernel.is_empty());
        let lo = |all: &[protocol::Device]| all.iter().find(|d| d.name == "lo").cloned().unwrap();
        assert!(lo(devices).mtu > 0);
        assert!(lo(later).counters.rx_packets >= lo(devices).counters.rx_packets);
    }

    #[test]
    fn a_cpu_window_is_opened_before_it_is_closed() {
        let replies =
            ask("{\"op\":\"close_cpu\"}\n{\"op\":\"open_cpu\"}\n{\"op\":\"close_cpu\"}\n");
        let [Reply::Fault { message }, Reply::CpuOpened, Reply::Cpu { node }] = replies.as_slice()
        else {
            panic!("{replies:?}")
        };
        assert!(message.contains("no CPU window"), "{message}");
        assert!(node.window_s > 0.0 && !node.busy.is_empty());
    }

    #[test]
    fn a_window_of_its_own_lasts_as_long_as_was_asked() {
        let replies = ask("{\"op\":\"measure_cpu\",\"after_s\":0.05,\"for_s\":0.1}\n");
        let [Reply::CpuMeasured { node, .. }] = replies.as_slice() else { panic!("{replies:?}") };
        assert!(node.window_s >= 0.1 && !node.busy.is_empty(), "{node:?}");
    }

    #[test]
    fn what_cannot_be_is_said_and_it_goes_on() {
        let sniff = r#"{"op":"sniff","device":{"with_address":"192.0.2.77"},"watch":
            {"secret":[1],"control":[2],"nodes":[],"wrapping":"esp"}}"#;
        let lines = format!("nonsense\n{}\n{{\"op\":\"stop\"}}\n", sniff.replace('\n', " "));
        let replies = ask(&lines);
        let texts: Vec<&str> = replies
            .iter()
            .map(|r| match r {
                Reply::Fault { message } => message.as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(texts[0].contains("no request of protocol"), "{texts:?}");
        assert!(texts[1].contains("192.0.2.77"), "{texts:?}");
        assert!(texts[2].contains("nothing is being watched"), "{texts:?}");
    }
}
