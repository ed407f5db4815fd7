//! What the worker program does for `regatta models`: whatever needs an engine (quantising, tokenizers), so that this
//! program links none.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context;
use regatta_core::id::ModelId;

use super::Common;
use crate::exit::Exit;
use crate::paths::Folders;

/// Has the worker program do it; its messages go to the terminal as they are.
pub(super) async fn run(
    folders: &Folders,
    verb: &str,
    model: &ModelId,
    from: Option<PathBuf>,
    arguments: &[String],
    common: &Common,
) -> anyhow::Result<Exit> {
    let name = format!("regatta-worker{}", std::env::consts::EXE_SUFFIX);
    let program = folders.worker_dirs().into_iter().map(|dir| dir.join(&name)).find(|path| path.is_file());
    let program = program.with_context(|| {
        format!("no {name} beside this program: build it with 'cargo build --release --workspace --bins' or give --worker-dir DIR")
    })?;
    let mut command = tokio::process::Command::new(&program);
    command.arg(verb).arg("--root").arg(folders.model_root()?).arg("--model").arg(model.as_str()).args(arguments);
    if let Some(from) = from {
        command.arg("--from").arg(from);
    }
    if let Some(models) = &common.models {
        command.arg("--models").arg(models);
    }
    if common.replace {
        command.arg("--replace");
    }
    let status = command
        .stdin(Stdio::null())
        .status()
        .await
        .with_context(|| format!("failed to start {}", program.display()))?;
    Ok(match status.code() {
        Some(0) => Exit::Done,
        Some(2) => Exit::BadInput,
        _ => Exit::Failed,
    })
}
