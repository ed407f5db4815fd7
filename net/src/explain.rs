//! Why a connection failed, in plain words. The errors of the layers below say what they saw; this says what is wrong,
//! and on which side.

use std::error::Error;
use std::io;

use tokio_rustls::rustls::{self, CertificateError};

/// What is wrong with the certificates or the kind of connection; `None` where it is something else, such as a
/// coordinator that is not there.
pub fn explain(error: &(dyn Error + 'static)) -> Option<String> {
    causes(error).find_map(|cause| match cause.downcast_ref::<rustls::Error>() {
        Some(error) => of_tls(error),
        // The layer between keeps only the text of what it read.
        None => of_ours(cause.to_string().strip_prefix(ALERT)?),
    })
}

/// How the TLS library says that the other side has refused something.
const ALERT: &str = "received fatal alert: ";

/// Whether a connection ended before the other side had said anything that could be understood. So it does where one
/// side speaks TLS and the other does not; and where a coordinator stops in that moment.
pub(crate) fn is_cut(error: &(dyn Error + 'static)) -> bool {
    const CUT: [&str; 5] = ["broken pipe", "connection reset", "FRAME_SIZE_ERROR", "frame with invalid size", "eof"];
    let text = chain(error);
    CUT.iter().any(|cut| text.contains(cut))
}

/// An error with its causes, as one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in causes(error) {
        let text = cause.to_string();
        // Many layers repeat the one below.
        if !parts.last().is_some_and(|last| last.ends_with(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |cause| below(*cause))
}

fn below<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    // An input or output error hides what it holds from `source` and gives the source of that instead.
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    inner.map_or_else(|| error.source(), |inner| Some(inner as &(dyn Error + 'static)))
}

fn of_tls(error: &rustls::Error) -> Option<String> {
    let text = match error {
        rustls::Error::InvalidCertificate(wrong) => format!("the coordinator's certificate {}", of_theirs(wrong)),
        rustls::Error::AlertReceived(alert) => of_ours(&format!("{alert:?}"))?,
        rustls::Error::InvalidMessage(_) => "the coordinator does not speak TLS there: use http://".to_owned(),
        _ => return None,
    };
    Some(text)
}

/// What this side found wrong with the other side's certificate.
fn of_theirs(wrong: &CertificateError) -> String {
    match wrong {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet (is this machine's clock right?)".to_owned()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "was not issued by the authority given with --ca".to_owned()
        }
        CertificateError::Revoked => "has been revoked".to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("is for another name than the one in the URL ({wrong})")
        }
        other => format!("is not accepted: {other}"),
    }
}

/// What the other side found wrong with this side's certificate, by the name of its alert.
fn of_ours(alert: &str) -> Option<String> {
    let wrong = match alert {
        "CertificateExpired" => "has expired",
        "CertificateRevoked" => "has been revoked",
        "UnknownCA" | "DecryptError" => {
            "was not issued by the authority that the coordinator was given with --client-ca"
        }
        "BadCertificate" | "CertificateUnknown" => "is not accepted there",
        "CertificateRequired" => return Some("the coordinator wants a certificate: give --cert and --key".to_owned()),
        _ => return None,
    };
    Some(format!("the coordinator refuses this side's certificate: it {wrong}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_inside_an_input_error_is_found_and_said_once() {
        let inner = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRevoked);
        let error = io::Error::new(io::ErrorKind::InvalidData, inner);
        assert!(explain(&error).unwrap().ends_with("it has been revoked"));
        assert_eq!(chain(&error).matches("alert").count(), 1, "{}", chain(&error));
    }

    #[test]
    fn a_coordinator_that_is_not_there_is_no_matter_of_certificates() {
        assert_eq!(explain(&io::Error::from(io::ErrorKind::ConnectionRefused)), None);
    }
}
