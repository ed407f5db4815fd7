//! Calls to a coordinator: deadlines on the way out, plain words on the way back.

use std::time::Duration;

use tonic::{Code, Request, Status};

use crate::exit::BadInput;

/// The longest a call may take that is answered at once.
const DEADLINE: Duration = Duration::from_secs(30);

/// A request with a deadline.
pub(crate) fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// What the coordinator said, without the transport's words around it. What a person got wrong is bad input.
pub(crate) fn refused(status: &Status) -> anyhow::Error {
    match status.code() {
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::AlreadyExists | Code::OutOfRange => {
            BadInput(status.message().to_owned()).into()
        }
        _ => anyhow::anyhow!(reason(status)),
    }
}

/// A status in one line, with what lies below it.
pub(crate) fn reason(status: &Status) -> String {
    let mut text = match (status.code(), status.message()) {
        (code, "") => code.description().to_owned(),
        (Code::Unavailable, message) => format!("can't reach the coordinator: {message}"),
        (_, message) => message.to_owned(),
    };
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        source = error.source();
    }
    text
}
