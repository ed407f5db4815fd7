//! The way to a coordinator: what a person says about it, and clients made from that.

use std::time::Duration;

use clap::Args;
use regatta_proto::MAX_MESSAGE;
use regatta_proto::pb::run_service_client::RunServiceClient;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

use crate::exit::BadInput;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// A client of the coordinator's `RunService`. It connects at its first call, and again whenever that is needed.
pub(crate) type RunClient = RunServiceClient<InterceptedService<Channel, Credentials>>;

/// Where the coordinator is and how to reach it, shared by all commands that speak to one.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConnectArgs {
    /// The coordinator's address, such as http://127.0.0.1:7600
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7600", env = "REGATTA_COORDINATOR")]
    coordinator: String,
}

impl ConnectArgs {
    /// The coordinator's address, checked.
    pub(crate) fn uri(&self) -> Result<Uri, BadInput> {
        let uri: Result<Uri, _> = self.coordinator.parse();
        uri.map_err(|error| BadInput(format!("--coordinator '{}': {error}", self.coordinator)))
    }

    /// A client of the coordinator. Nothing is sent yet.
    pub(crate) fn client(&self) -> anyhow::Result<RunClient> {
        Ok(client(self.uri()?))
    }
}

/// What every call carries to say who calls.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credentials;

impl Interceptor for Credentials {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        Ok(request)
    }
}

/// A client of a coordinator that asks for no credentials.
pub(crate) fn client(uri: Uri) -> RunClient {
    let channel = Endpoint::from(uri).connect_timeout(CONNECT).connect_lazy();
    RunServiceClient::with_interceptor(channel, Credentials)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}
