//! `regatta coordinator`: the service that leases trials to agents and stores what they measure.

use std::net::SocketAddr;

use anyhow::Context;
use clap::Args;
use regatta_coordinator::{Config, Coordinator};
use tokio_util::sync::CancellationToken;

use crate::exit::{BadInput, Exit};
use crate::output;
use crate::paths::Folders;
use crate::runs::DatabaseArgs;
use crate::signals;

/// Arguments of `regatta coordinator`.
#[derive(Debug, Args)]
pub(crate) struct CoordinatorArgs {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7600")]
    listen: SocketAddr,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Serves until it is told to stop: 0 after stopping in good order, 1 when it was stopped at once.
pub(crate) async fn run(args: CoordinatorArgs, folders: &Folders) -> anyhow::Result<Exit> {
    let (soft, hard) = (CancellationToken::new(), CancellationToken::new());
    signals::watch("the coordinator", soft.clone(), hard.clone())?;
    let database = folders.database(args.database.db.as_deref())?;
    crate::paths::make_parent(&database)?;
    let config = Config { listen: args.listen, ..Config::new(&database) };
    let bound = Coordinator::bind(config).await.map_err(|error| BadInput(error.to_string()))?;
    // On standard output, so that whoever starts it on port 0 learns which one it is.
    output::line(&format!("listening on {}", bound.addr()));
    tokio::select! {
        served = bound.serve(soft) => {
            served.context("the coordinator stopped with an error")?;
            Ok(Exit::Done)
        }
        () = hard.cancelled() => Ok(Exit::Failed),
    }
}
