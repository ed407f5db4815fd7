//! A wire that can be made to fail: a TCP proxy in the test's own process, between agents and coordinator.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Bytes on their way at a time, for each direction of a connection.
const CHUNK: usize = 16 * 1024;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the agent to the coordinator.
    Up,
    /// From the coordinator to the agent.
    Down,
}

/// What the wire does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    Delay(Duration),
    /// Bytes, ends and resets vanish.
    Blackhole,
}

#[derive(Debug)]
struct State {
    /// `None`: connections are refused.
    upstream: Option<SocketAddr>,
    up: Mode,
    down: Mode,
    /// Resets the connection after so many bytes in this direction.
    budget: Option<(Way, usize)>,
    /// Cancelled to reset what is open.
    open: CancellationToken,
    /// Cancelled to close one direction of what is open.
    half: (Way, CancellationToken),
    connections: u64,
    /// Bytes that were read to be carried, upwards and downwards.
    carried: (usize, usize),
}

/// The proxy. It goes away with this value.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            upstream: None,
            up: Mode::Pass,
            down: Mode::Pass,
            budget: None,
            open: CancellationToken::new(),
            half: (Way::Up, CancellationToken::new()),
            connections: 0,
            carried: (0, 0),
        }));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&state)));
        Self { addr, state, _tasks: tasks }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    /// Where connections lead from now on; `None`: nowhere.
    pub(crate) fn lead_to(&self, upstream: Option<SocketAddr>) {
        self.change(|state| state.upstream = upstream);
    }

    /// Everything as it should be, for what is open and what comes.
    pub(crate) fn heal(&self) {
        self.change(|state| (state.up, state.down, state.budget) = (Mode::Pass, Mode::Pass, None));
    }

    /// Each chunk takes this much longer, both ways.
    pub(crate) fn delay(&self, by: Duration) {
        self.change(|state| (state.up, state.down) = (Mode::Delay(by), Mode::Delay(by)));
    }

    /// Nothing comes through any more, and nobody is told.
    pub(crate) fn blackhole(&self) {
        self.change(|state| (state.up, state.down) = (Mode::Blackhole, Mode::Blackhole));
    }

    /// Nothing comes through one way any more, and nobody is told.
    pub(crate) fn swallow(&self, way: Way) {
        self.change(|state| match way {
            Way::Up => state.up = Mode::Blackhole,
            Way::Down => state.down = Mode::Blackhole,
        });
    }

    /// Resets every open connection.
    pub(crate) fn cut(&self) {
        self.change(|state| std::mem::take(&mut state.open)).cancel();
    }

    /// Resets the connection that carries the next so many bytes this way.
    pub(crate) fn cut_after(&self, way: Way, bytes: usize) {
        self.change(|state| state.budget = Some((way, bytes)));
    }

    /// Ends one direction of every open connection and leaves the other one open.
    pub(crate) fn close_half(&self, way: Way) {
        self.change(|state| std::mem::replace(&mut state.half, (way, CancellationToken::new()))).1.cancel();
        self.change(|state| state.half.0 = way);
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> u64 {
        self.change(|state| state.connections)
    }

    /// Bytes that came this way so far.
    pub(crate) fn carried(&self, way: Way) -> usize {
        self.change(|state| if way == Way::Up { state.carried.0 } else { state.carried.1 })
    }
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let upstream = state.lock().unwrap().upstream;
        while connections.try_join_next().is_some() {}
        let Some(upstream) = upstream else {
            let _ = client.set_zero_linger();
            continue;
        };
        connections.spawn(carry(client, upstream, Arc::clone(&state)));
    }
}

async fn carry(client: TcpStream, upstream: SocketAddr, state: Arc<Mutex<State>>) {
    let Ok(server) = TcpStream::connect(upstream).await else {
        let _ = client.set_zero_linger();
        return;
    };
    for socket in [&client, &server] {
        let _ = socket.set_nodelay(true);
    }
    let kill = {
        let mut state = state.lock().unwrap();
        state.connections += 1;
        state.open.clone()
    };
    // A connection of its own that is over must not take the others down.
    let kill = kill.child_token();
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let up = pump(Way::Up, from_client, to_server, &state, &kill);
    let down = pump(Way::Down, from_server, to_client, &state, &kill);
    let ((from_client, to_server), (from_server, to_client)) = tokio::join!(up, down);
    if kill.is_cancelled() {
        let _ = from_client.as_ref().set_zero_linger();
        let _ = from_server.as_ref().set_zero_linger();
    }
    drop((from_client, to_server, from_server, to_client));
}

/// Carries bytes one way until the end.
async fn pump(
    way: Way,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &Mutex<State>,
    kill: &CancellationToken,
) -> (OwnedReadHalf, OwnedWriteHalf) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let half = {
            let state = state.lock().unwrap();
            if state.half.0 == way { state.half.1.clone() } else { CancellationToken::new() }
        };
        let read = tokio::select! {
            () = kill.cancelled() => break,
            () = half.cancelled() => {
                let _ = to.shutdown().await;
                break;
            }
            read = from.read(&mut buffer) => read,
        };
        let mode = {
            let state = state.lock().unwrap();
            if way == Way::Up { state.up } else { state.down }
        };
        let count = match (read, mode) {
            // The end vanishes like everything else, until somebody cuts the wire.
            (Ok(0) | Err(_), Mode::Blackhole) => {
                kill.cancelled().await;
                break;
            }
            (_, Mode::Blackhole) => continue,
            (Ok(0), _) => {
                let _ = to.shutdown().await;
                break;
            }
            (Ok(count), _) => count,
            (Err(_), _) => {
                kill.cancel();
                break;
            }
        };
        if let Mode::Delay(by) = mode {
            tokio::select! {
                () = kill.cancelled() => break,
                () = tokio::time::sleep(by) => {}
            }
        }
        let (count, last) = spend(state, way, count);
        if to.write_all(&buffer[..count]).await.is_err() || last {
            kill.cancel();
            break;
        }
    }
    (from, to)
}

/// How many of `count` bytes may pass, and whether the connection ends with them.
fn spend(state: &Mutex<State>, way: Way, count: usize) -> (usize, bool) {
    let mut state = state.lock().unwrap();
    let carried = if way == Way::Up { &mut state.carried.0 } else { &mut state.carried.1 };
    *carried += count;
    let Some((of, left)) = state.budget.filter(|(of, _)| *of == way) else { return (count, false) };
    if left > count {
        state.budget = Some((of, left - count));
        return (count, false);
    }
    state.budget = None;
    (left, true)
}
