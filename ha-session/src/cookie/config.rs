//! How the cookie is named and which attributes it has.

use cookie::SameSite as Site;

use crate::error::ConfigError;

/// What browsers make of the cookie's name (RFC 6265bis, "Cookie Name Prefixes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Prefix {
    /// `__Host-`: sent over HTTPS only, for this very host, on every path. No other host can plant or overwrite it. The
    /// default.
    #[default]
    Host,
    /// `__Secure-`: can only be set over HTTPS. Needed when sub-domains share the cookie, which then may also plant it.
    Secure,
    /// No promise. Browsers let any neighbour host, and plain HTTP, overwrite it.
    None,
}

impl Prefix {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "__Host-",
            Self::Secure => "__Secure-",
            Self::None => "",
        }
    }
}

/// On which requests from other sites browsers send the cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SameSite {
    /// On none.
    Strict,
    /// On links followed to this site, never on forms and scripts of other sites: what keeps most forged requests out. The
    /// default.
    #[default]
    Lax,
    /// On all. Needs `Secure`, and a defence of its own against forged requests.
    None,
}

/// How long the browser keeps the cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Lifetime {
    /// `Max-Age` is what is left until the session's absolute end. The default.
    #[default]
    Absolute,
    /// No `Max-Age`: until the browser is closed, or restored, which many browsers take for "not closed".
    Browser,
}

/// How the cookie's content is protected. Both kinds are read whatever is written, so that this can be changed without
/// signing anybody out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Protection {
    /// HMAC-SHA256: cannot be forged; its holder can see id and version. The default, since both say nothing.
    #[default]
    Signed,
    /// XChaCha20-Poly1305: cannot be forged or read.
    Encrypted,
}

/// Name and attributes of the session cookie.
///
/// ```
/// use ha_session::{ConfigError, CookieConfig, MemoryStore, Key, Prefix, SessionLayer};
///
/// let keys = Key::from_bytes(&[7; 32])?;
/// let shared = CookieConfig::new("sid").prefix(Prefix::Secure).domain("shop.example");
/// let layer = SessionLayer::builder(MemoryStore::new(), keys.clone()).cookie(shared).build()?;
/// assert_eq!(layer.cookie_name(), "__Secure-sid");
///
/// // A browser would drop this one silently. Here the build fails.
/// let wrong = CookieConfig::new("sid").domain("shop.example");
/// let error = SessionLayer::builder(MemoryStore::new(), keys).cookie(wrong).build().unwrap_err();
/// assert_eq!(error.to_string(), r#"cookie "__Host-sid" must have no Domain, not Domain="shop.example""#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct CookieConfig {
    pub(super) name: String,
    pub(super) prefix: Prefix,
    pub(super) domain: Option<String>,
    pub(super) path: String,
    pub(super) secure: bool,
    pub(super) http_only: bool,
    pub(super) same_site: SameSite,
    pub(super) partitioned: bool,
    pub(super) lifetime: Lifetime,
    pub(super) protection: Protection,
}

impl CookieConfig {
    /// A cookie with this name after its prefix, and everything else by default.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            prefix: Prefix::default(),
            domain: None,
            path: "/".to_owned(),
            secure: true,
            http_only: true,
            same_site: SameSite::default(),
            partitioned: false,
            lifetime: Lifetime::default(),
            protection: Protection::default(),
        }
    }

    /// The prefix of the name. Default: [`Prefix::Host`].
    pub fn prefix(self, prefix: Prefix) -> Self {
        Self { prefix, ..self }
    }

    /// `Domain`: this host and all hosts below it get the cookie. Default: none, this host alone.
    pub fn domain(self, domain: impl Into<String>) -> Self {
        Self {
            domain: Some(domain.into()),
            ..self
        }
    }

    /// `Path`: where the cookie is sent. Default: `/`. No protection: pages of other paths can get at it.
    pub fn path(self, path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            ..self
        }
    }

    /// `Secure`: over HTTPS only. Default: on.
    pub fn secure(self, secure: bool) -> Self {
        Self { secure, ..self }
    }

    /// `HttpOnly`: hidden from scripts, so that a script planted in a page cannot send it away. Default: on.
    pub fn http_only(self, http_only: bool) -> Self {
        Self { http_only, ..self }
    }

    /// `SameSite`. Default: [`SameSite::Lax`].
    pub fn same_site(self, same_site: SameSite) -> Self {
        Self { same_site, ..self }
    }

    /// `Partitioned` (CHIPS): a separate cookie for each site that embeds this one. Default: off.
    pub fn partitioned(self, partitioned: bool) -> Self {
        Self {
            partitioned,
            ..self
        }
    }

    /// How long browsers keep it. Default: [`Lifetime::Absolute`].
    pub fn lifetime(self, lifetime: Lifetime) -> Self {
        Self { lifetime, ..self }
    }

    /// Signed or encrypted. Default: [`Protection::Signed`].
    pub fn protection(self, protection: Protection) -> Self {
        Self { protection, ..self }
    }

    /// The same cookie as plain HTTP on a developer's machine can have it.
    pub(super) fn insecure(self) -> Self {
        let same_site = match self.same_site {
            // Browsers drop this one without `Secure`.
            SameSite::None => SameSite::Lax,
            other => other,
        };
        Self {
            prefix: Prefix::None,
            secure: false,
            partitioned: false,
            same_site,
            ..self
        }
    }

    /// The name with its prefix.
    pub(super) fn full_name(&self) -> String {
        format!("{}{}", self.prefix.as_str(), self.name)
    }

    pub(super) fn site(&self) -> Site {
        match self.same_site {
            SameSite::Strict => Site::Strict,
            SameSite::Lax => Site::Lax,
            SameSite::None => Site::None,
        }
    }

    /// Refuses what a browser would drop, or take for something else.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let plain = !self.name.is_empty() && self.name.bytes().all(token);
        if !plain || self.name.starts_with("__") {
            return Err(ConfigError::CookieName {
                name: self.name.clone(),
            });
        }
        let label = |text: &str| {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-')
        };
        if let Some(domain) = &self.domain
            && !domain.split('.').all(label)
        {
            return Err(ConfigError::CookieDomain {
                domain: domain.clone(),
            });
        }
        let visible = |byte: u8| byte.is_ascii_graphic() && byte != b';';
        if !self.path.starts_with('/') || !self.path.bytes().all(visible) {
            return Err(ConfigError::CookiePath {
                path: self.path.clone(),
            });
        }
        self.check_rules()
    }

    fn check_rules(&self) -> Result<(), ConfigError> {
        let prefixed = self.prefix != Prefix::None;
        let host = self.prefix == Prefix::Host;
        let refused = |needs, given: String| {
            Err(ConfigError::CookieRule {
                name: self.full_name(),
                needs,
                given,
            })
        };
        match &self.domain {
            Some(domain) if host => return refused("no Domain", format!("Domain={domain:?}")),
            _ => {}
        }
        if host && self.path != "/" {
            return refused("Path=/", format!("Path={:?}", self.path));
        }
        if !self.secure && prefixed {
            return refused("Secure", "secure(false)".to_owned());
        }
        if !self.secure && self.same_site == SameSite::None {
            return refused("Secure", "SameSite=None".to_owned());
        }
        if !self.secure && self.partitioned {
            return refused("Secure", "Partitioned".to_owned());
        }
        Ok(())
    }
}

/// `__Host-id`, `Secure`, `HttpOnly`, `SameSite=Lax`, `Path=/`, signed.
impl Default for CookieConfig {
    fn default() -> Self {
        Self::new("id")
    }
}
