//! Who may speak: the protocol's version, one process to a name, addresses.

use regatta_coordinator::{Config, Coordinator, CoordinatorError};
use regatta_proto::pb::agent_message::Message as ToCoordinator;
use regatta_proto::{PROTOCOL, pb};
use tonic::{Code, Status};

use crate::support::{Agent, Server, a_moment, hello};

impl Agent {
    /// Ends the session, and waits until the coordinator has noticed.
    pub(crate) async fn disconnect(mut self, server: &Server) {
        self.close();
        while let Ok(Some(_)) = self.try_next().await {}
        loop {
            let listed = server.people().await.list_agents(pb::ListAgentsRequest {}).await.unwrap().into_inner();
            if listed.agents.iter().all(|agent| !agent.connected) {
                break;
            }
        }
    }
}

async fn refused(server: &Server, hello: pb::AgentHello) -> Status {
    match Agent::greet(server, hello).await {
        Ok(_) => panic!("was accepted"),
        Err(status) => status,
    }
}

#[tokio::test]
async fn an_agent_of_another_protocol_is_told_which_side_to_upgrade() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    for (protocol, side) in [(PROTOCOL + 1, "upgrade the coordinator"), (PROTOCOL - 1, "upgrade the agent")] {
        let status = refused(&server, pb::AgentHello { protocol, ..hello("host-a", "boot-1", Vec::new()) }).await;
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains(side), "{status}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_second_process_of_the_same_name_is_refused_while_the_first_one_lives() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let first = Agent::connect(&server, "boot-1").await;
    let status = refused(&server, hello("host-a", "boot-2", Vec::new())).await;
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(status.message().contains("--name"), "{status}");
    first.disconnect(&server).await;
    Agent::connect(&server, "boot-2").await;
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_has_left_was_last_seen_when_it_left() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with(Config::new(dir.path().join("regatta.db"))).await;
    let agent = Agent::connect(&server, "boot-1").await;
    let mut people = server.people().await;
    let mut seen = async || {
        let listed = people.list_agents(pb::ListAgentsRequest {}).await.unwrap().into_inner();
        listed.agents[0].last_seen_at_unix_ns
    };
    let came = seen().await;
    agent.disconnect(&server).await;
    let mut left = came;
    for _ in 0..1000 {
        left = seen().await;
        if left > came {
            break;
        }
        a_moment().await;
    }
    assert!(left > came);
    server.stop().await;
}

#[tokio::test]
async fn hellos_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let good = || hello("host-a", "boot-1", Vec::new());
    let twice = [good().devices, good().devices].concat();
    let of_another = hello("host-b", "boot-1", Vec::new()).devices;
    for (hello, part) in [
        (pb::AgentHello { agent_id: "../x".to_owned(), ..good() }, "agent name"),
        (pb::AgentHello { boot_id: String::new(), ..good() }, "boot_id"),
        (pb::AgentHello { devices: twice, ..good() }, "named twice"),
        (pb::AgentHello { devices: of_another, ..good() }, "of agent host-b"),
        (pb::AgentHello { workers: vec!["x".repeat(70_000)], ..good() }, "70000 bytes"),
        (pb::AgentHello { canaries: vec![canary(1, f64::NAN)], ..good() }, "read_bytes_per_s is NaN"),
        (pb::AgentHello { canaries: vec![canary(1, 1e10); 65], ..good() }, "65 canaries, at most 64"),
    ] {
        let status = refused(&server, hello).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(part), "{status}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_session_begins_with_hello() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut agent = Agent::connect(&server, "boot-1").await;
    agent.send(ToCoordinator::Hello(hello("host-a", "boot-1", Vec::new()))).await;
    assert_eq!(agent.refused().await.code(), Code::FailedPrecondition);
    server.stop().await;
}

#[tokio::test]
async fn agents_are_listed_with_their_devices() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut shown = hello("host-a", "boot-1", Vec::new());
    shown.devices[0].name = "a\u{202e}b\u{1b}[31m".to_owned();
    let (agent, _) = Agent::greet(&server, shown).await.unwrap();
    let listed = server.people().await.list_agents(pb::ListAgentsRequest {}).await.unwrap().into_inner().agents;
    assert!(listed[0].connected);
    assert_eq!(listed[0].devices[0].name, "a\u{fffd}b\u{fffd}[31m");
    agent.disconnect(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn an_address_that_is_taken_or_open_to_the_network_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let config = |listen| Config { listen, ..Config::new(dir.path().join("other.db")) };
    let taken = Coordinator::bind(config(server.addr)).await.unwrap_err();
    assert!(matches!(taken, CoordinatorError::AddressInUse(_)));
    assert!(taken.to_string().contains(&server.addr.to_string()), "{taken}");
    let open = Coordinator::bind(config(([0, 0, 0, 0], 0).into())).await.unwrap_err();
    assert!(open.to_string().contains("--tls-cert"), "{open}");
    server.stop().await;
}

/// A canary of the processor.
fn canary(measured_at_unix_ns: i64, read: f64) -> pb::Canary {
    pb::Canary {
        device: "cpu".to_owned(),
        device_name: "a\u{202e}b".to_owned(),
        measured_at_unix_ns,
        read_bytes_per_s: Some(read),
        flops: [("f32".to_owned(), 1e11), ("fp4".to_owned(), 1e15)].into(),
        ..pb::Canary::default()
    }
}

#[tokio::test]
async fn the_newest_canary_of_each_device_is_shown_and_all_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    for (boot, canaries) in
        [("boot-1", vec![canary(10, 1e10)]), ("boot-2", vec![canary(20, 2e10)]), ("boot-3", vec![canary(10, 1e10)])]
    {
        let greeting = pb::AgentHello { canaries, ..hello("host-a", boot, Vec::new()) };
        let (mut agent, _) = Agent::greet(&server, greeting).await.unwrap();
        agent.close();
        while let Ok(Some(_)) = agent.try_next().await {}
    }
    let listed = server.people().await.list_agents(pb::ListAgentsRequest {}).await.unwrap().into_inner();
    let [shown] = listed.agents[0].canaries.as_slice() else { panic!("{:?}", listed.agents[0].canaries) };
    assert_eq!((shown.measured_at_unix_ns, shown.read_bytes_per_s), (20, Some(2e10)));
    // Formats that there is no word for here are left out, and so are characters that turn text around.
    assert_eq!((shown.flops.len(), shown.device_name.as_str()), (1, "a\u{fffd}b"));
    server.stop().await;
}
