use std::fmt;
use std::sync::Arc;

/// Request extension: whom a request counts for, in a rate limit per key; such as a tenant or an API key's owner.
///
/// What authenticates a request puts it there. It wins over what a layer would read from the request itself.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LimitKey(Arc<str>);

impl LimitKey {
    /// Requests with equal keys count together.
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        Self(key.into())
    }

    /// The key as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for LimitKey {
    // A key may be a secret, and ends up wherever a request is printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LimitKey").finish_non_exhaustive()
    }
}
