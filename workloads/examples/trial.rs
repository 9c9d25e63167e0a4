//! One trial between two agents over pipes, for working on the generator without a cluster.
//!
//! `trial WORKLOAD [key=value ...]` with the keys of `WorkloadParams`, and `duration`, `warmup`,
//! `address`, `cpus` (e.g. `0,1`), `client_netns` and `server_netns` (names that `ip netns` knows).

use cnibench_model::{Pinning, Workload};
use cnibench_workloads::{
    agent, cpus, outcome,
    protocol::{EndReport, Reply, Request, Task},
};
use std::{
    collections::HashMap,
    env,
    error::Error,
    io::{BufRead, BufReader, Write, stdin, stdout},
    net::{IpAddr, SocketAddr},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Agent {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Agent {
    fn start(netns: Option<&String>) -> Result<Self> {
        let own = env::current_exe()?;
        let mut command = match netns {
            None => Command::new(&own),
            Some(name) => {
                let mut ip = Command::new("ip");
                ip.args(["netns", "exec", name]).arg(&own);
                ip
            }
        };
        let mut child =
            command.arg("agent").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().ok_or("no standard input")?;
        let output = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        Ok(Self { child, input, output })
    }

    fn ask(&mut self, request: &Request) -> Result<()> {
        Ok(writeln!(self.input, "{}", serde_json::to_string(request)?)?)
    }

    fn reply(&mut self) -> Result<Reply> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    fn finish(mut self) -> Result<EndReport> {
        let reply = self.reply()?;
        drop(self.input);
        self.child.wait()?;
        match reply {
            Reply::Finished(report) => Ok(*report),
            other => Err(format!("{other:?}").into()),
        }
    }
}

fn main() -> Result<()> {
    let mut args = env::args().skip(1);
    let workload = args.next().ok_or("usage: trial WORKLOAD [key=value ...]")?;
    if workload == "agent" {
        return Ok(agent::run(BufReader::new(stdin()), stdout())?);
    }
    let workload: Workload = workload.parse()?;
    let mut own: HashMap<String, String> = HashMap::new();
    let mut params = serde_json::to_value(workload.defaults())?;
    for arg in args {
        let (key, value) = arg.split_once('=').ok_or_else(|| format!("{arg}: not key=value"))?;
        match params.get_mut(key) {
            Some(place) => {
                *place = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            }
            None => drop(own.insert(key.to_owned(), value.to_owned())),
        }
    }
    let number = |key: &str, default: f64| -> Result<f64> {
        Ok(own.get(key).map(|v| v.parse()).transpose()?.unwrap_or(default))
    };
    let allowed = own.get("cpus").map_or("0,1", String::as_str);
    let allowed: Vec<u32> =
        allowed.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?;
    let params: cnibench_model::WorkloadParams = serde_json::from_value(params)?;
    let one_machine = cpus::Allowed { cpus: &allowed, machine: "this" };
    let (client_cpus, server_cpus) = cpus::assign(params.pinning, one_machine, one_machine);
    if params.pinning == Pinning::None {
        eprintln!("unpinned");
    }
    let task = Task {
        workload,
        params,
        duration_s: number("duration", 2.0)?,
        warmup_s: number("warmup", 0.2)?,
        client_cpus,
        server_cpus,
        patience_s: number("patience", 3.0)?,
        canary: Vec::new(),
        latencies: true,
        count: None,
    };
    let address: IpAddr = own.get("address").map_or("127.0.0.1", String::as_str).parse()?;
    let mut server = Agent::start(own.get("server_netns"))?;
    let mut client = Agent::start(own.get("client_netns"))?;
    server.ask(&Request::Serve { task: task.clone(), bind: address, port: 0 })?;
    let port = match server.reply()? {
        Reply::Listening { port } => port,
        other => return Err(format!("server: {other:?}").into()),
    };
    client.ask(&Request::Drive { task: task.clone(), server: SocketAddr::new(address, port) })?;
    let client = client.finish()?;
    let server = server.finish()?;
    let outcome = outcome::combine(&task, &client, &server);
    for sample in &outcome.samples {
        println!(
            "{:<20} {:>18.9} {}",
            sample.metric.name(),
            sample.value,
            sample.metric.unit().symbol()
        );
    }
    for warning in &outcome.warnings {
        println!("warning: {warning}");
    }
    if own.contains_key("verbose") {
        println!("{}", serde_json::to_string_pretty(&client.endpoint)?);
        println!("{}", serde_json::to_string_pretty(&server.endpoint)?);
    }
    Ok(())
}
