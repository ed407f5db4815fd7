//! Runs: one submission of a scenario.

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Cells are waiting or running.
    Active,
    /// Every cell has ended.
    Done,
    /// A person stopped it; every cell has ended.
    Cancelled,
}

impl RunState {
    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of that name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Active, Self::Done, Self::Cancelled].into_iter().find(|s| s.as_str() == text)
    }
}
