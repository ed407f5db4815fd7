//! Server-sent events: the parts of a page that have changed, whole, at most once a second.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::page::Part;
use super::{Dashboard, FRESH, Topic};
use crate::auth::Caller;
use crate::http::Body;

/// How long a stream lasts at most; a browser that still looks opens the next one by itself.
pub(super) const LONGEST: Duration = Duration::from_mins(10);

/// How long nothing may be sent: a browser that is gone is noticed by then, and what nobody tells of is looked at.
const QUIET: Duration = Duration::from_secs(5);

/// Events that may wait for a browser to read them. One that does not read gets less news, not old news.
const WAITING: usize = 4;

/// How soon a browser is to come back when a stream ends.
const AGAIN: &str = "retry: 2000\n\n";

/// Begins to tell what changes.
pub(super) fn start(dashboard: Arc<Dashboard>, topic: Topic, caller: Caller, room: OwnedSemaphorePermit) -> Body {
    let (outbound, events) = mpsc::channel::<Bytes>(WAITING);
    let (tasks, stop) = (dashboard.tasks.clone(), dashboard.stop.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = caller.gone() => {}
            () = outbound.closed() => {}
            () = follow(&dashboard, &topic, &outbound) => {}
        }
        drop(room);
    });
    StreamBody::new(ReceiverStream::new(events).map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)))).boxed()
}

/// Sends what has changed, until the time is over or there is nothing more to follow.
async fn follow(dashboard: &Dashboard, topic: &Topic, outbound: &mpsc::Sender<Bytes>) {
    let end = Instant::now() + LONGEST;
    let mut changes = dashboard.live.changes();
    let mut seen: Vec<Part> = Vec::new();
    if outbound.send(Bytes::from_static(AGAIN.as_bytes())).await.is_err() {
        return;
    }
    while Instant::now() < end {
        changes.borrow_and_update();
        let Ok(parts) = dashboard.parts_of(topic).await else { return };
        let news = changed(&seen, &parts);
        // A line that browsers pass over tells whether anybody is still there.
        let text = if news.is_empty() { ": still here\n\n".to_owned() } else { news };
        if outbound.send(Bytes::from(text)).await.is_err() {
            return;
        }
        seen = parts.to_vec();
        let _ = tokio::time::timeout(QUIET, changes.changed()).await;
        tokio::time::sleep(FRESH).await;
    }
}

/// The parts that are not as they were, as events.
fn changed(before: &[Part], now: &[Part]) -> String {
    let new = now.iter().filter(|part| !before.contains(part));
    new.map(event).collect()
}

/// A part as an event: its id in the first line of the data, the element in the lines behind it.
fn event(part: &Part) -> String {
    // Whatever ends a line would end the data, or begin another field.
    let lines = part.html.split(['\n', '\r']).map(|line| format!("data: {line}\n"));
    format!("event: part\ndata: {}\n{}\n", part.id, lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(id: &'static str, html: &str) -> Part {
        Part { id, html: html.to_owned() }
    }

    #[test]
    fn only_what_has_changed_is_sent_and_as_one_event() {
        let before = [part("a", "<p>1</p>"), part("b", "<p>2</p>")];
        let now = [part("a", "<p>1</p>"), part("b", "<p>3\n</p>")];
        assert_eq!(changed(&before, &now), "event: part\ndata: b\ndata: <p>3\ndata: </p>\n\n");
        assert_eq!(changed(&now, &now), "");
        assert_eq!(changed(&[], &now).matches("event: part\n").count(), 2);
    }

    #[test]
    fn no_text_ends_an_event_or_begins_another_field() {
        let evil = event(&part("a", "x\r\n\r\nevent: evil\n\ndata: y\rid: 1"));
        assert!(evil.lines().skip(1).filter(|line| !line.is_empty()).all(|line| line.starts_with("data: ")), "{evil}");
        assert_eq!(evil.matches("\n\n").count(), 1, "{evil}");
        assert!(!evil.contains('\r'));
    }
}
