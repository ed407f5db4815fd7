//! Child processes: started with a clean environment in a group of their own, watched, and gone when they are to be.

mod environment;
mod frames;
mod oom;
mod stderr;

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(not(target_os = "linux"))]
use self::elsewhere as system;
#[cfg(target_os = "linux")]
use self::linux as system;
#[cfg(unix)]
use self::unix as platform;
#[cfg(windows)]
use self::windows as platform;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use regatta_proto::{frame, pb};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

pub(crate) use self::environment::withheld;
pub(crate) use self::frames::FrameReader;
use self::oom::OomWatch;
use self::stderr::Tail;

/// How long a killed process and its pipes may take to go away.
const GONE: Duration = Duration::from_secs(5);

/// How long a small message to a worker may take to get into the pipe.
const SEND: Duration = Duration::from_secs(10);

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Status {
    /// By itself, with this exit code.
    Exit(i32),
    /// By a signal.
    #[cfg_attr(not(unix), expect(dead_code, reason = "processes are ended by signals on Unix only"))]
    Signal {
        /// `SIGSEGV`.
        name: String,
        /// Whether it was SIGKILL, the signal of the out-of-memory killer.
        kill: bool,
    },
}

/// What is known of a process that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    /// How. `None` if it could not be found out.
    pub(crate) status: Option<Status>,
    /// Whether this agent killed it.
    pub(crate) killed: bool,
    /// Whether the host's memory ran out, as far as there is evidence.
    pub(crate) out_of_memory: bool,
    /// The end of its standard error.
    pub(crate) stderr: String,
}

impl Ending {
    /// Whether it ended by itself and without an error.
    pub(crate) fn is_clean(&self) -> bool {
        self.status == Some(Status::Exit(0)) && !self.killed
    }
}

/// Environment and surroundings of every child.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// Variables on top of the allowed ones.
    pub(crate) extra: Vec<(OsString, OsString)>,
    /// Files with `oom_kill` counters instead of the system's.
    pub(crate) oom_counters: Option<Vec<PathBuf>>,
}

impl Surroundings {
    /// Starts `program`.
    pub(crate) fn start<A: AsRef<OsStr>>(&self, program: &Path, args: &[A]) -> io::Result<Process> {
        let mut command = Command::new(program);
        command.args(args).env_clear().envs(environment::allowed(std::env::vars_os())).envs(environment::GIVEN);
        command.envs(self.extra.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        platform::prepare(&mut command);
        let oom = OomWatch::start(self.oom_counters.clone().unwrap_or_else(system::oom_counters));
        let mut child = command.spawn()?;
        let group = Group(child.id());
        group.0.into_iter().for_each(system::arrange);
        let missing = || io::Error::other("a pipe that was asked for is missing");
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = Tail::default();
        let mut readers = JoinSet::new();
        readers.spawn(stderr.clone().fill(child.stderr.take().ok_or_else(missing)?));
        Ok(Process { group, child, stdin, frames: FrameReader::new(stdout), stderr, readers, oom })
    }

    /// Runs `program` to its end and returns what it wrote to standard output, at most `limit` bytes.
    pub(crate) async fn output<A: AsRef<OsStr>>(
        &self,
        program: &Path,
        args: &[A],
        deadline: Duration,
        limit: usize,
    ) -> Result<String, RunError> {
        let mut process = self.start(program, args).map_err(RunError::Start)?;
        process.stdin = None;
        let read = timeout(deadline, process.frames.read_all(limit)).await;
        let grace = if matches!(read, Ok(Ok(_))) { GONE } else { Duration::ZERO };
        let ending = process.end(grace).await;
        let output = match read {
            Err(_) => return Err(RunError::Deadline { deadline, ending }),
            Ok(Err(error)) => return Err(RunError::Output { reason: error.to_string(), ending }),
            Ok(Ok(output)) => output,
        };
        if ending.status != Some(Status::Exit(0)) {
            return Err(RunError::Failed(ending));
        }
        String::from_utf8(output).map_err(|error| RunError::Output { reason: error.to_string(), ending })
    }
}

/// Why a program that was to run to its end did not do so well.
#[derive(Debug)]
pub(crate) enum RunError {
    /// It could not be started.
    Start(io::Error),
    /// It took too long.
    Deadline {
        /// How long it had.
        deadline: Duration,
        /// How it ended.
        ending: Ending,
    },
    /// Its output can't be used.
    Output {
        /// Why not.
        reason: String,
        /// How it ended.
        ending: Ending,
    },
    /// It ended with an error.
    Failed(Ending),
}

/// Kills its process group when it goes away.
struct Group(Option<u32>);

impl Group {
    fn kill(&self) {
        self.0.into_iter().for_each(platform::kill_group);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running child. It is killed with all its children when it is dropped.
pub(crate) struct Process {
    // Dropped first, so that children are killed before the leader is reaped.
    group: Group,
    child: Child,
    stdin: Option<ChildStdin>,
    /// What it writes to standard output, as frames.
    pub(crate) frames: FrameReader<ChildStdout>,
    stderr: Tail,
    readers: JoinSet<()>,
    oom: OomWatch,
}

impl Process {
    /// Its process id, for logs.
    pub(crate) fn id(&self) -> Option<u32> {
        self.group.0
    }

    /// Writes the first message, which may be larger than the pipe: the caller sets the deadline.
    pub(crate) async fn send_start(&mut self, message: &pb::ToWorker) -> io::Result<()> {
        let bytes = frame::encode(message).map_err(io::Error::other)?;
        let stdin = self.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        stdin.write_all(&bytes).await?;
        stdin.flush().await
    }

    /// Writes a small message. That the worker is gone shows on its output, so it is no error here.
    pub(crate) async fn send(&mut self, message: &pb::ToWorker) {
        let sent = timeout(SEND, self.send_start(message)).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::debug!(pid = self.id(), "the worker takes no more messages");
        }
    }

    /// Waits `grace` for it to end by itself, kills what is left of it and its children, and says how it ended.
    pub(crate) async fn end(mut self, grace: Duration) -> Ending {
        // Standard input stays open: a worker takes its end for the death of the agent.
        let by_itself = timeout(grace, self.child.wait()).await;
        let killed = by_itself.is_err();
        self.group.kill();
        let waited = if let Ok(waited) = by_itself {
            waited
        } else {
            let _ = self.child.start_kill();
            timeout(GONE, self.child.wait()).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        self.group.0 = None;
        // With everybody gone the pipe is at its end; somebody who left the group may hold it open, so not for ever.
        let _ = timeout(GONE, self.readers.join_next()).await;
        let status = waited.ok().map(platform::status);
        let stderr = self.stderr.text();
        let kill = !killed && matches!(status, Some(Status::Signal { kill: true, .. }));
        let died = !matches!(status, Some(Status::Exit(0)));
        let out_of_memory = !killed && ((kill && self.oom.has_seen_kill()) || (died && oom::speaks_of_memory(&stderr)));
        Ending { status, killed, out_of_memory, stderr }
    }
}

impl FrameReader<ChildStdout> {
    /// Everything up to the end of the pipe, at most `limit` bytes.
    async fn read_all(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.pipe().take(limit as u64 + 1).read_to_end(&mut bytes).await?;
        if bytes.len() > limit {
            return Err(io::Error::other(format!("more than {limit} bytes of output")));
        }
        Ok(bytes)
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests;
