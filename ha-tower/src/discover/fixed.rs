use ha_core::endpoint::{Endpoint, EndpointError};

use super::set::{self, SetError};
use super::source::Source;

/// Why a fixed list was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FixedError {
    /// An entry is not an address.
    #[error("endpoints[{index}] is refused")]
    Endpoint {
        /// The position in the list, from 0.
        index: usize,
        /// What is wrong with it, with its text.
        #[source]
        source: EndpointError,
    },
    /// The list as a whole is no good.
    #[error(transparent)]
    Set(#[from] SetError),
}

/// A list that never changes.
///
/// ```
/// use ha_tower::discover;
///
/// let source = discover::fixed(["http://127.0.0.1:3000", "http://127.0.0.1:3001"])?;
/// let error = discover::fixed(["http://:3000"]).unwrap_err();
/// assert_eq!(error.to_string(), "endpoints[0] is refused");
/// # drop(source);
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
    Ok(Source::endpoints(endpoints)?)
}

impl Source {
    /// A list of endpoints that never changes, with weights and keys of your own.
    ///
    /// ```
    /// use ha_core::endpoint::{Endpoint, Weight};
    /// use ha_tower::discover::Source;
    ///
    /// let big: Endpoint = "http://10.0.0.1:3000".parse()?;
    /// let small: Endpoint = "http://10.0.0.2:3000".parse()?;
    /// let source = Source::endpoints(vec![big.with_weight(Weight::new(4)?), small])?;
    /// # drop(source);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SetError`] when it is empty, repeats a key or has a scheme other than `http`.
    pub fn endpoints(endpoints: Vec<Endpoint>) -> Result<Self, SetError> {
        set::check(&endpoints)?;
        Ok(Self::constant(endpoints))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_lists_are_refused_by_position_and_value() {
        assert_eq!(
            fixed([""; 0]).unwrap_err(),
            FixedError::Set(SetError::Empty)
        );
        let error = fixed(["http://a", "http://:1"]).unwrap_err();
        assert_eq!(error.to_string(), "endpoints[1] is refused");
        let inner = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(inner, "address \"http://:1\" has no host");
        let error = fixed(["http://a", "http://a:80"]).unwrap_err();
        assert_eq!(error.to_string(), "endpoints[1] repeats a:80");
    }
}
