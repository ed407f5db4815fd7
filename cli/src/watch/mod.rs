//! `regatta watch`: a run as it goes on. The state is in [`board`], its look in [`render`], both pure; this module
//! holds the connection, and finds it again when it breaks.

pub(crate) mod board;
mod render;
mod screen;

use std::pin::pin;
use std::time::Duration;

use clap::Args;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use regatta_proto::pb;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::connect::{ConnectArgs, RunClient};
use crate::exit::Exit;
use crate::rpc;
use crate::signals;
use crate::view::CellView;
use board::Board;
pub(crate) use screen::{Place, Screen};

/// How often the grid is drawn again when nothing happens.
const REDRAW: Duration = Duration::from_millis(500);

/// Limits of the pause before a reconnect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

const EXAMPLES: &str = "\
Examples:
  regatta watch 01935f                                 the matrix filling up, until the run has ended
  regatta watch 01935f --json | jq -c 'select(.event == \"cell_ended\")'

Ctrl-C stops watching; the run goes on.
Exit codes: 0 all cells ok, 1 something failed, 2 bad input, 4 some cells are not ok or the run was cancelled";

/// Arguments of `regatta watch`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WatchArgs {
    /// A run id or the beginning of one
    run: String,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Print a JSON object for each event
    #[arg(long)]
    json: bool,
}

/// Watches a run until it has ended or Ctrl-C.
pub(crate) async fn run(args: WatchArgs) -> anyhow::Result<Exit> {
    let client = args.connect.client().await?;
    remotely(client, &args.run, Screen::new(args.json, Place::Stdout)).await.map(Watched::exit)
}

/// Watches a run of a coordinator elsewhere: Ctrl-C ends the watching, not the run.
pub(crate) async fn remotely(client: RunClient, run: &str, screen: Screen) -> anyhow::Result<Watched> {
    let watched = follow(client, run, screen, signals::ctrl_c()).await?;
    if let Watched::Stopped = watched {
        crate::output::note(&format!(
            "the run goes on; 'regatta watch {run}' shows it, 'regatta cancel {run}' stops it"
        ));
    }
    Ok(watched)
}

/// How watching ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Watched {
    /// The run has ended, and this is how.
    Ended(Exit),
    /// The watcher was stopped before.
    Stopped,
}

impl Watched {
    pub(crate) fn exit(self) -> Exit {
        match self {
            Self::Ended(exit) => exit,
            Self::Stopped => Exit::Incomplete,
        }
    }
}

/// Shows a run until it has ended or `stop` is done. A connection that breaks is made again, for ever.
pub(crate) async fn follow(
    client: RunClient,
    run: &str,
    screen: Screen,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Watched> {
    let mut stop = pin!(stop);
    let mut follower = Follower { client, run: run.to_owned(), screen, started: Instant::now(), board: None };
    let mut failures = 0;
    let mut rng = ChaCha8Rng::seed_from_u64(Uuid::now_v7().as_u64_pair().1);
    loop {
        let cut = tokio::select! {
            cut = follower.connection(&mut failures) => cut?,
            () = &mut stop => return Ok(Watched::Stopped),
        };
        let reason = match cut {
            Cut::Ended(exit) => return Ok(Watched::Ended(exit)),
            Cut::Lost(reason) => reason,
        };
        follower.lost(&reason);
        let pause = pause(failures, &mut rng);
        failures = failures.saturating_add(1);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = &mut stop => return Ok(Watched::Stopped),
        }
    }
}

/// A pause before a reconnect: a random part of a limit that doubles.
fn pause(failures: u32, rng: &mut impl Rng) -> Duration {
    let (least, most) = PAUSE;
    let limit = least.saturating_mul(2_u32.saturating_pow(failures)).min(most);
    limit.mul_f64(rng.random_range(0.5..=1.0))
}

/// Why a connection is over.
enum Cut {
    /// The run has ended.
    Ended(Exit),
    /// It broke.
    Lost(String),
}

struct Follower {
    client: RunClient,
    run: String,
    screen: Screen,
    started: Instant,
    /// What is known, from the first connection on.
    board: Option<Board>,
}

impl Follower {
    /// One connection, from its start to its end. The error is one that another attempt would not mend.
    async fn connection(&mut self, failures: &mut u32) -> anyhow::Result<Cut> {
        match self.listen(failures).await {
            Ok(cut) => Ok(cut),
            Err(status) if self.board.is_some() && may_pass(&status) => Ok(Cut::Lost(rpc::reason(&status))),
            Err(status) => Err(rpc::refused(&status)),
        }
    }

    async fn listen(&mut self, failures: &mut u32) -> Result<Cut, Status> {
        let request = pb::WatchRunRequest { run_id: self.run.clone() };
        let mut events = self.client.watch_run(request).await?.into_inner();
        let Some(first) = events.message().await? else { return Ok(closed()) };
        // Asked after the stream has begun, so that no end of a cell falls between the two.
        let cells = self.cells().await?;
        self.connected(first, cells);
        *failures = 0;
        let mut ticks = tokio::time::interval(REDRAW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.misses_ends() {
                let cells = self.cells().await?;
                self.refresh(cells);
            }
            if let Some(exit) = self.ended() {
                return Ok(Cut::Ended(exit));
            }
            tokio::select! {
                event = events.message() => match event? {
                    Some(event) => self.event(event),
                    None => return Ok(closed()),
                },
                _ = ticks.tick() => self.redraw(),
            }
        }
    }

    /// The cells as they stand.
    async fn cells(&mut self) -> Result<Vec<CellView>, Status> {
        let request = rpc::request(pb::ListCellsRequest { run_id: self.run.clone() });
        let cells = self.client.list_cells(request).await?.into_inner().cells;
        Ok(cells.into_iter().map(CellView::from).collect())
    }

    /// Whether the run has ended and the ends of some cells are still on their way: a run's end is told as soon as it is known,
    /// and may overtake those of cells that ended with it.
    fn misses_ends(&self) -> bool {
        self.board.as_ref().is_some_and(|board| board.run.has_ended() && board.ended() < board.total())
    }

    fn refresh(&mut self, cells: Vec<CellView>) {
        let now = self.now();
        let Some(board) = &mut self.board else { return };
        for at in board.refresh(cells) {
            self.screen.ended(board, at, now);
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn connected(&mut self, first: pb::WatchRunResponse, cells: Vec<CellView>) {
        let Some(board) = &mut self.board else {
            let board = Board::new(first.run.clone().unwrap_or_default().into(), cells);
            self.run.clone_from(&board.run.id);
            self.screen.started(&board);
            self.board = Some(board);
            return;
        };
        if std::mem::take(&mut board.offline) {
            self.screen.back();
        }
        self.refresh(cells);
        self.event(first);
    }

    fn event(&mut self, event: pb::WatchRunResponse) {
        let now = self.now();
        let Some(board) = &mut self.board else { return };
        let progress = event.progress.clone();
        let before = progress.as_ref().and_then(|said| board.working.get(&said.trial_id)).and_then(|w| w.cell);
        if let Some(at) = board.event(event, now) {
            self.screen.ended(board, at, now);
        }
        if let Some(said) = progress {
            self.screen.progress(board, &said, now);
            if let Some(working) = board.working.get(&said.trial_id).filter(|w| w.cell.is_some() && w.cell != before) {
                self.screen.began(board, &said.trial_id, working, now);
            }
        }
    }

    fn redraw(&mut self) {
        let now = self.now();
        if let Some(board) = &self.board {
            self.screen.redraw(board, now);
        }
    }

    /// The exit code, once the run has ended.
    fn ended(&mut self) -> Option<Exit> {
        let now = self.now();
        let board = self.board.as_ref().filter(|board| board.run.has_ended())?;
        self.screen.over(board, now);
        Some(board.exit())
    }

    fn lost(&mut self, reason: &str) {
        let now = self.now();
        let Some(board) = &mut self.board else { return };
        if !std::mem::replace(&mut board.offline, true) {
            board.working.clear();
            self.screen.lost(board, reason, now);
        }
    }
}

fn closed() -> Cut {
    Cut::Lost("the coordinator closed the connection".to_owned())
}

/// Whether the same call may succeed later.
fn may_pass(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::NotFound
            | Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::Unimplemented
            | Code::OutOfRange
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_differ() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (failures, limit) in [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000].into_iter().enumerate() {
            let failures = u32::try_from(failures).unwrap();
            let pauses: Vec<Duration> = (0..20).map(|_| pause(failures, &mut rng)).collect();
            let limit = Duration::from_millis(limit);
            assert!(pauses.iter().all(|pause| (limit / 2..=limit).contains(pause)), "{pauses:?}");
            assert!(pauses.windows(2).any(|pair| pair[0] != pair[1]));
        }
        assert!(pause(u32::MAX, &mut rng) <= PAUSE.1);
    }
}
