//! The chart of a series.

use jiff::tz::TimeZone;
use regatta_core::nightly::Standing;

use super::history::{HistoryView, NightView};
use crate::chart::{self, Layout};
use crate::error::Result;
use crate::view::{Break, Chart, Night, Nightly, trend};

impl HistoryView {
    /// Its chart; `None` where no night has a value.
    fn chart(&self) -> Option<Chart> {
        let measured: Vec<&NightView> = self.nights.iter().filter(|night| night.value.is_some()).collect();
        let position = |run: &str| measured.iter().position(|night| night.run == run);
        // A break counts from the first night after it that has a value.
        let after = |at: usize| self.nights[at..].iter().find(|night| night.value.is_some());
        let breaks = self.nights.iter().enumerate().filter(|(_, night)| !night.breaks.is_empty());
        let breaks = breaks.filter_map(|(at, night)| {
            Some(Break { before: position(&after(at)?.run)?, label: night.breaks.join(", ") })
        });
        let mut changes: Vec<usize> =
            self.nights.iter().filter_map(|night| position(night.since.as_deref()?)).collect();
        changes.sort_unstable();
        changes.dedup();
        let night = |night: &&NightView| Night {
            date: night.at.to_zoned(TimeZone::UTC).date(),
            values: night.values.clone(),
            suspect: match night.standing {
                Standing::Valid => String::new(),
                Standing::Suspect => "suspect".to_owned(),
                Standing::Excluded => "excluded".to_owned(),
            },
        };
        let nights = Nightly {
            slug: format!("history-{}", self.metric),
            subject: self.cell.clone(),
            value_axis: format!("{} rate, {}", if self.metric == "decode" { "Decode" } else { "Prefill" }, self.unit),
            style: self.style,
            more_is_better: true,
            nights: measured.iter().map(night).collect(),
            breaks: breaks.collect(),
            changes,
        };
        trend(&nights).map(Chart::Trend)
    }

    /// Its chart as SVG; `None` where no night has a value.
    pub fn svg(&self) -> Option<Result<String>> {
        Some(chart::svg(&self.chart()?, Layout::WIDE))
    }

    /// Its chart as PNG; `None` where no night has a value.
    pub fn png(&self) -> Option<Result<Vec<u8>>> {
        let chart = self.chart()?;
        let drawn = chart::svg(&chart, Layout::WIDE);
        Some(drawn.and_then(|svg| chart::png(&chart.caption().slug, &svg)))
    }
}
