//! A run of a coordinator as a database file here: whole or not at all.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, bail};
use regatta_proto::pb;
use tempfile::NamedTempFile;

use crate::connect::RunClient;
use crate::rpc;

/// Fetches the run into `file`, in the place of what was there.
pub(crate) async fn run(client: &mut RunClient, run: &str, file: &Path) -> anyhow::Result<()> {
    let failed = || format!("failed to write {}", file.display());
    crate::paths::make_parent(file)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut copy = NamedTempFile::with_prefix_in(".run-", folder).with_context(failed)?;
    let request = pb::ExportRunRequest { run_id: run.to_owned() };
    let mut chunks = client.export_run(request).await.map_err(|status| rpc::refused(&status))?.into_inner();
    let (mut received, mut size) = (0, 0);
    while let Some(message) = chunks.message().await.map_err(|status| rpc::refused(&status))? {
        copy.write_all(&message.chunk).with_context(failed)?;
        received += message.chunk.len() as u64;
        size = message.size;
    }
    if received == 0 || received != size {
        bail!("the coordinator sent {received} of {size} bytes of run {run}: try again");
    }
    copy.as_file().sync_all().with_context(failed)?;
    copy.persist(file).with_context(failed)?;
    Ok(())
}
