use std::collections::HashSet;

use ha_core::endpoint::{Endpoint, EndpointError, EndpointKey};

use super::{Kind, Source};

/// Why a fixed list was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FixedError {
    /// The list has no entry.
    #[error("endpoints is empty, at least one is needed")]
    Empty,
    /// An entry is not an address.
    #[error("endpoints[{index}] is refused")]
    Endpoint {
        /// The position in the list, from 0.
        index: usize,
        /// What is wrong with it, with its text.
        #[source]
        source: EndpointError,
    },
    /// An entry has a scheme that no client here speaks.
    #[error("endpoints[{index}] has the scheme {scheme:?}, only \"http\" is spoken")]
    Scheme {
        /// The position in the list, from 0.
        index: usize,
        /// The scheme.
        scheme: String,
    },
    /// Two entries are the same endpoint.
    #[error("endpoints[{index}] repeats {key}")]
    Repeated {
        /// The position of the second one, from 0.
        index: usize,
        /// The key of both.
        key: EndpointKey,
    },
}

/// A list that never changes.
///
/// ```
/// use ha_tower::discover;
///
/// let source = discover::fixed(["http://127.0.0.1:3000", "http://127.0.0.1:3001"])?;
/// let error = discover::fixed(["http://:3000"]).unwrap_err();
/// assert_eq!(error.to_string(), "endpoints[0] is refused");
/// # Ok::<(), discover::FixedError>(())
/// ```
///
/// # Errors
/// [`FixedError`] names the entry by its position; its source quotes the text.
pub fn fixed<I>(addresses: I) -> Result<Source, FixedError>
where
    I: IntoIterator,
    I::Item: AsRef<str>,
{
    let endpoints = addresses
        .into_iter()
        .enumerate()
        .map(|(index, text)| {
            text.as_ref()
                .parse::<Endpoint>()
                .map_err(|source| FixedError::Endpoint { index, source })
        })
        .collect::<Result<Vec<_>, _>>()?;
    Source::endpoints(endpoints)
}

impl Source {
    /// A list of endpoints that never changes, with weights and keys of your own.
    ///
    /// # Errors
    /// [`FixedError`] when it is empty, repeats a key or has a scheme other than `http`.
    pub fn endpoints(endpoints: Vec<Endpoint>) -> Result<Self, FixedError> {
        if endpoints.is_empty() {
            return Err(FixedError::Empty);
        }
        let mut seen = HashSet::new();
        for (index, endpoint) in endpoints.iter().enumerate() {
            if endpoint.address.scheme() != "http" {
                return Err(FixedError::Scheme {
                    index,
                    scheme: endpoint.address.scheme().to_owned(),
                });
            }
            if !seen.insert(&endpoint.key) {
                return Err(FixedError::Repeated {
                    index,
                    key: endpoint.key.clone(),
                });
            }
        }
        Ok(Self(Kind::Fixed(endpoints)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_lists_are_refused_by_position_and_value() {
        assert_eq!(fixed([""; 0]).unwrap_err(), FixedError::Empty);
        let error = fixed(["http://a", "http://:1"]).unwrap_err();
        assert_eq!(error.to_string(), "endpoints[1] is refused");
        let inner = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(inner, "address \"http://:1\" has no host");
        assert!(matches!(
            fixed(["https://a"]).unwrap_err(),
            FixedError::Scheme { index: 0, .. }
        ));
        assert!(matches!(
            fixed(["http://a", "http://a:80"]).unwrap_err(),
            FixedError::Repeated { index: 1, .. }
        ));
    }
}
