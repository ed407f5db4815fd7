//! Schedules: what is to be run when, and the firings that follow. Pure: the time comes in as an argument.
//!
//! A schedule fires when the clock on a wall of its time zone shows what its cron expression says. Where that time is left out in
//! spring it fires when the clock has gone forward, and where it comes twice in autumn it fires the first time: every night
//! has its run, and no night two.

use std::str::FromStr as _;

use croner::Cron;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::document::closest;
use crate::id::{InvalidName, ScheduleName, shown};

/// Firings between two times that are counted at most.
const MOST: usize = 1000;

/// When something is to be run.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Its name.
    pub name: ScheduleName,
    /// The expression as it was written.
    pub cron: String,
    /// The time zone's name.
    pub zone: String,
    pattern: Cron,
    time_zone: TimeZone,
}

/// Why there can't be such a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The name.
    #[error("name: {0}")]
    Name(InvalidName),
    /// Not a cron expression.
    #[error(
        "cron: '{cron}' is no cron expression ({reason}): write minute, hour, day of month, month and day of week, such as \
         '30 2 * * *' for half past two each night or '0 22 * * MON-FRI'"
    )]
    Cron {
        /// What was written.
        cron: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It never fires.
    #[error("cron: '{cron}' never comes: there is no such date, as with 30 February")]
    Never {
        /// What was written.
        cron: String,
    },
    /// It fires all the time.
    #[error("cron: '{cron}' has seconds: a run takes minutes at least, so leave the first field out")]
    Seconds {
        /// What was written.
        cron: String,
    },
    /// No such time zone.
    #[error(
        "time_zone: there is no '{zone}': write a name of the IANA database, such as 'Europe/Berlin' or 'UTC'{hint}"
    )]
    Zone {
        /// What was written.
        zone: String,
        /// What may have been meant.
        hint: String,
    },
}

impl Schedule {
    /// Checks a schedule. `now` is only asked whether it ever fires after that.
    pub fn new(name: &str, cron: &str, zone: &str, now: Timestamp) -> Result<Self, Vec<ScheduleError>> {
        let mut errors = Vec::new();
        let name = ScheduleName::from_str(name).map_err(|error| errors.push(ScheduleError::Name(error))).ok();
        let pattern = pattern(cron).map_err(|error| errors.push(error)).ok();
        let time_zone = time_zone(zone).map_err(|error| errors.push(error)).ok();
        let (Some(name), Some(pattern), Some(time_zone)) = (name, pattern, time_zone) else { return Err(errors) };
        let schedule = Self { name, cron: cron.to_owned(), zone: zone.to_owned(), pattern, time_zone };
        match schedule.next(now) {
            Some(_) => Ok(schedule),
            None => Err(vec![ScheduleError::Never { cron: shown(cron) }]),
        }
    }

    /// Its first firing after `time`; `None` where there is none any more.
    pub fn next(&self, time: Timestamp) -> Option<Zoned> {
        self.pattern.find_next_occurrence(&time.to_zoned(self.time_zone.clone()), false).ok()
    }

    /// Its next firings after `time`.
    pub fn upcoming(&self, time: Timestamp, n: usize) -> Vec<Zoned> {
        std::iter::successors(self.next(time), |last| self.next(last.timestamp())).take(n).collect()
    }

    /// Its firings after `from` and up to `to`, at most a thousand.
    pub fn due(&self, from: Timestamp, to: Timestamp) -> Vec<Zoned> {
        let all = std::iter::successors(self.next(from), |last| self.next(last.timestamp()));
        all.take_while(|firing| firing.timestamp() <= to).take(MOST).collect()
    }
}

fn pattern(cron: &str) -> Result<Cron, ScheduleError> {
    let fields = cron.split_whitespace().count();
    if fields == 6 || fields == 7 {
        return Err(ScheduleError::Seconds { cron: shown(cron) });
    }
    Cron::from_str(cron).map_err(|error| ScheduleError::Cron { cron: shown(cron), reason: error.to_string() })
}

fn time_zone(zone: &str) -> Result<TimeZone, ScheduleError> {
    TimeZone::get(zone).map_err(|_| {
        let names: Vec<String> = jiff::tz::db().available().map(|name| name.as_str().to_owned()).collect();
        let lower: Vec<String> = names.iter().map(|name| name.to_lowercase()).collect();
        let likely = closest(zone, lower.iter().map(String::as_str));
        let likely = likely.and_then(|likely| names.iter().find(|name| name.to_lowercase() == likely));
        let hint = likely.map(|name| format!("; did you mean '{name}'?"));
        ScheduleError::Zone { zone: shown(zone), hint: hint.unwrap_or_default() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn nightly(cron: &str, zone: &str) -> Schedule {
        Schedule::new("nightly", cron, zone, at("2026-01-01T00:00:00Z")).unwrap()
    }

    fn times(firings: &[Zoned]) -> Vec<String> {
        firings.iter().map(Zoned::to_string).collect()
    }

    #[test]
    fn a_schedule_fires_by_the_clock_on_the_wall() {
        let schedule = nightly("30 2 * * MON-FRI", "Europe/Berlin");
        assert_eq!(
            times(&schedule.upcoming(at("2026-06-05T10:00:00Z"), 3)),
            [
                "2026-06-08T02:30:00+02:00[Europe/Berlin]",
                "2026-06-09T02:30:00+02:00[Europe/Berlin]",
                "2026-06-10T02:30:00+02:00[Europe/Berlin]"
            ]
        );
        let due = schedule.due(at("2026-06-08T00:30:00Z"), at("2026-06-10T00:30:00Z"));
        assert_eq!(due.len(), 2, "after the first, up to the second: {due:?}");
        assert_eq!(schedule.due(at("2000-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z")).len(), MOST);
    }

    #[test]
    fn every_night_has_one_firing_whatever_the_clocks_do() {
        let schedule = nightly("30 2 * * *", "Europe/Berlin");
        // On 29 March 2026 clocks go from 2:00 to 3:00, on 25 October from 3:00 to 2:00.
        assert_eq!(
            times(&schedule.upcoming(at("2026-03-28T12:00:00Z"), 2)),
            ["2026-03-29T03:00:00+02:00[Europe/Berlin]", "2026-03-30T02:30:00+02:00[Europe/Berlin]"]
        );
        assert_eq!(
            times(&schedule.upcoming(at("2026-10-24T12:00:00Z"), 2)),
            ["2026-10-25T02:30:00+02:00[Europe/Berlin]", "2026-10-26T02:30:00+01:00[Europe/Berlin]"]
        );
    }

    #[test]
    fn a_date_that_never_comes_is_refused_and_one_that_seldom_comes_is_not() {
        let of = |cron: &str| Schedule::new("nightly", cron, "UTC", at("2026-01-01T00:00:00Z"));
        assert_eq!(of("0 0 31 2 *").unwrap_err(), [ScheduleError::Never { cron: "0 0 31 2 *".to_owned() }]);
        assert_eq!(
            times(&of("0 0 29 2 *").unwrap().upcoming(at("2026-01-01T00:00:00Z"), 1)),
            ["2028-02-29T00:00:00+00:00[UTC]"]
        );
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once_with_what_to_write() {
        let errors = Schedule::new("Night ly", "every night", "europe/lisbn", at("2026-01-01T00:00:00Z")).unwrap_err();
        let text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for part in
            ["name: 'Night ly'", "'every night' is no cron expression", "30 2 * * *", "did you mean 'Europe/Lisbon'?"]
        {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
        let seconds = Schedule::new("x", "* * * * * *", "UTC", at("2026-01-01T00:00:00Z")).unwrap_err();
        assert!(seconds[0].to_string().contains("leave the first field out"), "{seconds:?}");
        for cron in ["", "61 * * * *", "* * *"] {
            let error = Schedule::new("x", cron, "UTC", at("2026-01-01T00:00:00Z")).unwrap_err().remove(0).to_string();
            assert!(error.contains("minute, hour"), "{cron}: {error}");
        }
    }
}
