use std::fmt;
use std::sync::Arc;

use ha_core::config::ConfigError;
use http::{Method, request};

/// Says of a request whether it belongs to a route. Clones are cheap.
#[derive(Clone)]
pub struct Matcher {
    rule: Rule,
}

type Closure = Arc<dyn Fn(&request::Parts) -> bool + Send + Sync>;

#[derive(Clone)]
enum Rule {
    Method(Method),
    Prefix(Arc<str>),
    Path(Arc<str>),
    #[cfg(feature = "axum")]
    Matched(Arc<str>),
    When(Closure),
    Both(Arc<(Rule, Rule)>),
    Either(Arc<(Rule, Rule)>),
}

/// Requests with this method. A HEAD is no GET.
#[must_use]
pub fn method(method: Method) -> Matcher {
    Rule::Method(method).into()
}

/// Requests whose path is `prefix` or goes on below it: `/api` fits `/api` and `/api/x`, and not `/apix`.
#[must_use]
pub fn prefix(prefix: impl Into<Arc<str>>) -> Matcher {
    Rule::Prefix(prefix.into()).into()
}

/// Requests whose path fits a template such as `/users/{id}/orders` or `/files/{*path}`, written as for axum.
///
/// `{name}` stands for one whole segment, `{*name}` for all that is left, at the end only; neither is ever empty.
#[must_use]
pub fn path(template: impl Into<Arc<str>>) -> Matcher {
    Rule::Path(template.into()).into()
}

/// Requests of the axum route with exactly this template, prefixes of `Router::nest` included: `/api/users/{id}`.
///
/// Fits only on a `Router`, after a route was chosen: with `Router::layer` or `route_layer`, not around it.
#[cfg(feature = "axum")]
#[must_use]
pub fn matched(template: impl Into<Arc<str>>) -> Matcher {
    Rule::Matched(template.into()).into()
}

/// Requests of which `fits` says so, by head and extensions.
#[must_use]
pub fn when(fits: impl Fn(&request::Parts) -> bool + Send + Sync + 'static) -> Matcher {
    Rule::When(Arc::new(fits)).into()
}

impl From<Rule> for Matcher {
    fn from(rule: Rule) -> Self {
        Self { rule }
    }
}

impl Matcher {
    /// Requests that fit both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Rule::Both(Arc::new((self.rule, other.rule))).into()
    }

    /// Requests that fit one of them, or both.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Rule::Either(Arc::new((self.rule, other.rule))).into()
    }

    /// Whether this request fits.
    #[must_use]
    pub fn fits(&self, head: &request::Parts) -> bool {
        self.rule.fits(head)
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        self.rule.validate()
    }
}

impl Rule {
    fn fits(&self, head: &request::Parts) -> bool {
        match self {
            Self::Method(method) => head.method == *method,
            Self::Prefix(prefix) => head
                .uri
                .path()
                .strip_prefix(prefix.trim_end_matches('/'))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Path(template) => fits_template(template, head.uri.path()),
            #[cfg(feature = "axum")]
            Self::Matched(template) => head
                .extensions
                .get::<axum::extract::MatchedPath>()
                .is_some_and(|path| path.as_str() == &**template),
            Self::When(fits) => fits(head),
            Self::Both(rules) => rules.0.fits(head) && rules.1.fits(head),
            Self::Either(rules) => rules.0.fits(head) || rules.1.fits(head),
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Method(_) | Self::When(_) => Ok(()),
            Self::Prefix(prefix) => absolute("route.prefix", prefix),
            #[cfg(feature = "axum")]
            Self::Matched(template) => absolute("route.matched", template),
            Self::Path(template) => {
                absolute("route.path", template)?;
                valid_template(template)
            }
            Self::Both(rules) | Self::Either(rules) => {
                rules.0.validate()?;
                rules.1.validate()
            }
        }
    }
}

fn absolute(field: &'static str, path: &str) -> Result<(), ConfigError> {
    if path.starts_with('/') {
        return Ok(());
    }
    Err(ConfigError::new(
        field,
        format_args!("{path:?}"),
        "must begin with '/'",
    ))
}

/// One segment of a template.
enum Segment<'a> {
    Literal(&'a str),
    One,
    Rest,
    Broken,
}

impl<'a> From<&'a str> for Segment<'a> {
    fn from(text: &'a str) -> Self {
        let named = text
            .strip_prefix('{')
            .and_then(|text| text.strip_suffix('}'));
        let (kind, name) = match named {
            None => (Self::Literal(text), ""),
            Some(name) => match name.strip_prefix('*') {
                Some(name) => (Self::Rest, name),
                None => (Self::One, name),
            },
        };
        if name.contains(['{', '}', '*']) || named.is_some() && name.is_empty() {
            return Self::Broken;
        }
        match kind {
            Self::Literal(text) if text.contains(['{', '}']) => Self::Broken,
            kind => kind,
        }
    }
}

fn valid_template(template: &str) -> Result<(), ConfigError> {
    let mut segments = template.split('/').skip(1).map(Segment::from).peekable();
    while let Some(segment) = segments.next() {
        let reason = match segment {
            Segment::Broken => "must have a name in each pair of braces, around a whole segment",
            Segment::Rest if segments.peek().is_some() => "must have {*name} only at its end",
            _ => continue,
        };
        return Err(ConfigError::new(
            "route.path",
            format_args!("{template:?}"),
            reason,
        ));
    }
    Ok(())
}

fn fits_template(template: &str, path: &str) -> bool {
    let mut path = path.split('/');
    for segment in template.split('/') {
        let Some(given) = path.next() else {
            return false;
        };
        match Segment::from(segment) {
            Segment::Literal(text) if text == given => {}
            Segment::One if !given.is_empty() => {}
            Segment::Rest => return !given.is_empty() || path.next().is_some(),
            Segment::Literal(_) | Segment::One | Segment::Broken => return false,
        }
    }
    path.next().is_none()
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rule.fmt(f)
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method(method) => f.debug_tuple("method").field(method).finish(),
            Self::Prefix(prefix) => f.debug_tuple("prefix").field(prefix).finish(),
            Self::Path(template) => f.debug_tuple("path").field(template).finish(),
            #[cfg(feature = "axum")]
            Self::Matched(template) => f.debug_tuple("matched").field(template).finish(),
            Self::When(_) => f.debug_tuple("when").finish_non_exhaustive(),
            Self::Both(rules) => f
                .debug_tuple("and")
                .field(&rules.0)
                .field(&rules.1)
                .finish(),
            Self::Either(rules) => f.debug_tuple("or").field(&rules.0).field(&rules.1).finish(),
        }
    }
}
