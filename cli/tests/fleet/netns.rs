//! Two agents on one machine, each in a network namespace of its own with a real link, and the link is taken away in the
//! middle of a run. As root on Linux; elsewhere it says why it did not run.

use std::process::{Command, Output};
use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Fleet, Setting};

/// A bridge, and one namespace for each agent with a cable to it. Gone with this value.
struct Network {
    name: String,
    /// The bridge's address: where the coordinator is reached from inside.
    address: String,
}

fn ip(arguments: &str) -> Result<(), String> {
    let output: Output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

impl Network {
    fn new(agents: usize) -> Result<Self, String> {
        // A name of this process, so that runs side by side do not meet; 10.x.y.0/24 likewise.
        let id = std::process::id();
        let network =
            Self { name: format!("rg{}", id % 100_000), address: format!("10.{}.{}", 100 + id / 250 % 100, id % 250) };
        let (name, net) = (&network.name, &network.address);
        ip(&format!("link add {name}b type bridge"))?;
        ip(&format!("addr add {net}.1/24 dev {name}b"))?;
        ip(&format!("link set {name}b up"))?;
        for number in 0..agents {
            ip(&format!("netns add {name}n{number}"))?;
            ip(&format!("link add {name}v{number} type veth peer name eth0 netns {name}n{number}"))?;
            ip(&format!("link set {name}v{number} master {name}b up"))?;
            ip(&format!("-n {name}n{number} addr add {net}.{}/24 dev eth0", number + 10))?;
            ip(&format!("-n {name}n{number} link set eth0 up"))?;
            ip(&format!("-n {name}n{number} link set lo up"))?;
        }
        Ok(network)
    }

    fn namespace(&self, number: usize) -> String {
        format!("{}n{number}", self.name)
    }

    fn cable(&self, number: usize, state: &str) {
        ip(&format!("link set {}v{number} {state}", self.name)).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for number in 0..2 {
            let _ = ip(&format!("netns del {}n{number}", self.name));
        }
        let _ = ip(&format!("link del {}b", self.name));
    }
}

/// How long the cables are pulled.
const CUT: Duration = Duration::from_mins(1);

/// The coordinator listens at the end of the cables, so there is TLS and everybody has a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_down_for_a_minute_costs_nothing() {
    let network = match Network::new(2) {
        Ok(network) => network,
        Err(reason) => {
            println!("skipped: no network namespaces here: {reason}");
            return;
        }
    };
    let listen = format!("{}.1", network.address).parse().unwrap();
    let namespaces = (0..2).map(|number| network.namespace(number)).collect();
    let setting = Setting { namespaces, listen: Some(listen), ..Setting::default() };
    let mut fleet = Fleet::with(2, setting).await;
    let run = fleet.submit(2, &["one", "two"], 60).await;
    fleet.stored(&run, 10).await;
    for number in 0..2 {
        network.cable(number, "down");
    }
    let stored = fleet.run(&run).await.samples;
    let cut = Instant::now();
    // Longer than leases, keepalive and acknowledgements last: both sides give the connection up.
    fleet.connected(0).await;
    tokio::time::sleep_until(cut + CUT).await;
    let ended = fleet.run(&run).await;
    assert_eq!(ended.state, "active");
    // What had left the cable before may still have been stored, and no more.
    assert!(ended.samples < stored + 60, "{stored} samples before, {} after", ended.samples);
    for number in 0..2 {
        network.cable(number, "up");
    }
    let ended = fleet.done(&run).await;
    assert_eq!(ended.cells["ok"], 8, "{:?}\n{}", ended.cells, fleet.story());
    fleet.stop();
    let (_, verdict) = fleet.verdict(&run).await;
    verdict.assert_nothing_lost();
    assert!(verdict.stored >= 480, "{verdict:?}");
}
