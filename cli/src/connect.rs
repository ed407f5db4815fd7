//! The way to a coordinator: what a person says about it, and clients made from that.

use std::path::PathBuf;

use clap::Args;
use regatta_core::token::{NotAToken, Token};
use regatta_net::{Connection, Credentials, TokenSource, chain, explain};
use regatta_proto::MAX_MESSAGE;
use regatta_proto::pb::run_service_client::RunServiceClient;
use serde::{Deserialize, Serialize};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::exit::BadInput;

/// The coordinator where none is named.
pub(crate) const DEFAULT: &str = "http://127.0.0.1:7600";

/// The variable that may hold a token: no flag does, because everyone on a machine can see the flags of a program.
pub(crate) const TOKEN: &str = "REGATTA_TOKEN";

/// A client of the coordinator's `RunService`. It connects again whenever that is needed.
pub(crate) type RunClient = RunServiceClient<InterceptedService<Channel, Credentials>>;

/// Where the coordinator is and how to reach it, shared by all commands that speak to one.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ConnectArgs {
    #[arg(
        long,
        value_name = "URL",
        env = "REGATTA_COORDINATOR",
        help = "The coordinator's address, such as https://bench.example:7600"
    )]
    pub coordinator: Option<String>,
    /// File with the authority of the coordinator's certificate, for https://
    #[arg(long, value_name = "FILE", env = "REGATTA_CA")]
    pub ca: Option<PathBuf>,
    /// File with a certificate to show, where the coordinator asks for one
    #[arg(long, value_name = "FILE", env = "REGATTA_CERT", requires = "key")]
    pub cert: Option<PathBuf>,
    /// File with the certificate's private key
    #[arg(long, value_name = "FILE", env = "REGATTA_KEY", requires = "cert")]
    pub key: Option<PathBuf>,
    #[arg(
        long,
        value_name = "FILE",
        env = "REGATTA_TOKEN_FILE",
        help = "File with a token; the variable REGATTA_TOKEN may hold the token itself"
    )]
    pub token_file: Option<PathBuf>,
}

impl ConnectArgs {
    /// The coordinator's address, checked.
    pub(crate) fn uri(&self) -> Result<Uri, BadInput> {
        let url = self.named().unwrap_or(DEFAULT);
        Connection::parse(url).map_err(|error| BadInput(format!("--coordinator {error}")))
    }

    /// The address, where one was given.
    pub(crate) fn named(&self) -> Option<&str> {
        self.coordinator.as_deref()
    }

    /// The way to the coordinator. Its files are read once, so that what is wrong with them is found before anything
    /// is sent.
    pub(crate) fn connection(&self) -> Result<Connection, BadInput> {
        let token = match (&self.token_file, std::env::var(TOKEN)) {
            (Some(file), _) => TokenSource::File(file.clone()),
            (None, Ok(text)) => TokenSource::Given(given(&text)?),
            (None, Err(std::env::VarError::NotUnicode(_))) => {
                return Err(BadInput(format!("{TOKEN}: {}", NotAToken::Form)));
            }
            (None, Err(std::env::VarError::NotPresent)) => TokenSource::None,
        };
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            (Some(_), None) => return Err(BadInput("a certificate needs its key: give key too".to_owned())),
            (None, Some(_)) => return Err(BadInput("a key needs its certificate: give cert too".to_owned())),
        };
        let connection = Connection { uri: self.uri()?, ca: self.ca.clone(), identity, token };
        connection.check().map_err(|error| BadInput(error.to_string()))?;
        Ok(connection)
    }

    /// A client of the coordinator, connected, so that an address where there is none is named in the error.
    pub(crate) async fn client(&self) -> anyhow::Result<RunClient> {
        let connection = self.connection()?;
        let connecting = connection.endpoint()?.connect().await;
        let channel = connecting.map_err(|error| unreachable(&connection.described(), &error))?;
        Ok(over(channel, connection.credentials()?))
    }
}

/// A token that was given as text.
fn given(text: &str) -> Result<Token, BadInput> {
    text.trim().parse().map_err(|error: NotAToken| BadInput(format!("{TOKEN}: {error}")))
}

/// A client of a coordinator that asks for no credentials.
pub(crate) fn client(uri: Uri) -> RunClient {
    over(Endpoint::from(uri).connect_lazy(), Credentials::default())
}

/// Why there is no connection, and what to do about it.
fn unreachable(address: &str, error: &tonic::transport::Error) -> anyhow::Error {
    let reason = explain(error).unwrap_or_else(|| {
        let reason = chain(error);
        let reason = reason.strip_prefix("transport error: ").unwrap_or(&reason);
        format!("{reason}; is a coordinator running there, and is the address right?")
    });
    anyhow::anyhow!("can't reach the coordinator at {address}: {reason}")
}

fn over(channel: Channel, credentials: Credentials) -> RunClient {
    RunServiceClient::with_interceptor(channel, credentials)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}
