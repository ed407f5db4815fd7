//! How a person or a service manager stops a long-running command: asked once it leaves in good order, asked twice at
//! once.

use tokio_util::sync::CancellationToken;

/// Follows the signals from now on: `soft` is cancelled by the first, `hard` by the second.
pub(crate) fn watch(what: &'static str, soft: CancellationToken, hard: CancellationToken) -> anyhow::Result<()> {
    let mut signals = system::Signals::new()?;
    tokio::spawn(async move {
        let name = signals.next().await;
        tracing::info!(signal = name, "{what} stops in good order; the same again stops it at once");
        soft.cancel();
        let name = signals.next().await;
        tracing::warn!(signal = name, "{what} stops at once");
        hard.cancel();
    });
    Ok(())
}

/// Done when a person presses Ctrl-C; where signals can't be had, nobody can.
pub(crate) async fn ctrl_c() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(unix)]
mod system {
    use tokio::signal::unix::{Signal, SignalKind, signal};

    pub(super) struct Signals {
        interrupt: Signal,
        terminate: Signal,
    }

    impl Signals {
        pub(super) fn new() -> std::io::Result<Self> {
            Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
        }

        pub(super) async fn next(&mut self) -> &'static str {
            tokio::select! {
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.terminate.recv() => "SIGTERM",
            }
        }
    }
}

#[cfg(windows)]
mod system {
    use tokio::signal::windows::{self, CtrlBreak, CtrlC, CtrlClose, CtrlShutdown};

    pub(super) struct Signals {
        c: CtrlC,
        r#break: CtrlBreak,
        close: CtrlClose,
        shutdown: CtrlShutdown,
    }

    impl Signals {
        pub(super) fn new() -> std::io::Result<Self> {
            Ok(Self {
                c: windows::ctrl_c()?,
                r#break: windows::ctrl_break()?,
                close: windows::ctrl_close()?,
                shutdown: windows::ctrl_shutdown()?,
            })
        }

        pub(super) async fn next(&mut self) -> &'static str {
            tokio::select! {
                _ = self.c.recv() => "Ctrl-C",
                _ = self.r#break.recv() => "Ctrl-Break",
                _ = self.close.recv() => "console closed",
                _ = self.shutdown.recv() => "shutdown",
            }
        }
    }
}
