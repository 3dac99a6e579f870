use std::fmt;
use std::str::FromStr;

/// How much it matters that a request is served when not all can be.
///
/// Three classes are few enough that everybody knows which one is theirs (Google's SRE book, "Handling Overload", calls it
/// criticality). A request extension in HTTP; what is inside passes it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Goes first: people notice at once, such as a checkout or a health check.
    Critical,
    /// Everything that nobody has thought about.
    #[default]
    Default,
    /// Goes last: nobody waits for it, such as a batch job, a prefetch or telemetry.
    Sheddable,
}

impl Priority {
    /// From the first to be served to the last.
    pub const ALL: [Self; 3] = [Self::Critical, Self::Default, Self::Sheddable];

    /// `critical`, `default` or `sheddable`: as in a header or a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Default => "default",
            Self::Sheddable => "sheddable",
        }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no [`Priority`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no priority: critical, default or sheddable")]
pub struct UnknownPriority(String);

impl FromStr for Priority {
    type Err = UnknownPriority;

    /// Letter case does not matter.
    fn from_str(text: &str) -> Result<Self, UnknownPriority> {
        Self::ALL
            .into_iter()
            .find(|priority| text.eq_ignore_ascii_case(priority.as_str()))
            .ok_or_else(|| UnknownPriority(text.chars().take(32).collect()))
    }
}
