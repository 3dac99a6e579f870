//! The settings that a URL can say.

use percent_encoding::percent_decode_str;

use super::config::{Builder, Encryption, Login};
use super::error::ConfigError;
use super::follow;

pub(super) const DEFAULT_PORT: u16 = 6379;
pub(super) const DEFAULT_SENTINEL_PORT: u16 = 26379;

/// Puts what `url` says into `builder`.
pub(super) fn apply(mut builder: Builder, url: &str) -> Result<Builder, ConfigError> {
    let (scheme, rest) = url
        .split_once("://")
        .ok_or_else(|| bad_url("has no scheme, redis:// or redis+sentinel://", ""))?;
    // A login that was not encoded would be taken for a host, and be shown.
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    if rest[end..].contains('@') {
        return Err(bad_url(
            "has an @ behind the first / or ?: percent-encode these in a user and a password",
            "",
        ));
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (rest, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, hosts) = rest.rsplit_once('@').unwrap_or(("", rest));
    builder.login = parse_login(login)?;
    if hosts.is_empty() {
        return Err(bad_url("has no host", ""));
    }
    let (tls, kind) = match scheme.strip_prefix("rediss") {
        Some(kind) => (true, Some(kind)),
        None => (false, scheme.strip_prefix("redis")),
    };
    let mut parameters = Parameters::read(query)?;
    let db = match kind {
        Some("") => {
            if hosts.contains(',') {
                return Err(bad_url("names more than one host without Sentinel", hosts));
            }
            builder.nodes = vec![parse_address("node", hosts, DEFAULT_PORT)?];
            path
        }
        Some("+cluster") => {
            builder.cluster = all("cluster_node", hosts, DEFAULT_PORT)?;
            path
        }
        Some("+sentinel") => {
            builder.sentinels = all("sentinel", hosts, DEFAULT_SENTINEL_PORT)?;
            let (name, db) = path.split_once('/').unwrap_or((path, ""));
            if name.is_empty() {
                return Err(bad_url("has no master name after the Sentinels", ""));
            }
            builder.master = Some(decode(name)?);
            builder.sentinel_login = Login {
                user: parameters.take("sentinel_user")?,
                password: parameters.take("sentinel_password")?,
            };
            db
        }
        _ => return Err(bad_url("has a scheme that is not known", scheme)),
    };
    if tls {
        builder.encryption = encryption(builder.encryption, parameters.take("tls_ca_file")?)?;
    }
    parameters.finish()?;
    if !db.is_empty() {
        builder.db = db
            .parse()
            .map_err(|_| bad_url("has a database that is not a number", db))?;
    }
    Ok(builder)
}

#[cfg(feature = "tls")]
fn encryption(set: Encryption, ca_file: Option<String>) -> Result<Encryption, ConfigError> {
    Ok(match (ca_file, set) {
        (Some(file), _) => Encryption::Tls(Some(crate::tls::Tls::builder().ca_file(file).build()?)),
        (None, Encryption::Plain) => Encryption::Tls(None),
        (None, set) => set,
    })
}

#[cfg(not(feature = "tls"))]
fn encryption(_: Encryption, _: Option<String>) -> Result<Encryption, ConfigError> {
    Err(bad_url("asks for TLS: turn on the feature `tls`", ""))
}

/// What follows the question mark.
struct Parameters<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Parameters<'a> {
    fn read(query: &'a str) -> Result<Self, ConfigError> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &'a str| {
            pair.split_once('=')
                .ok_or_else(|| bad_url("has a parameter without a value", ""))
        };
        Ok(Self(pairs.map(pair).collect::<Result<_, _>>()?))
    }

    fn take(&mut self, name: &str) -> Result<Option<String>, ConfigError> {
        let Some(at) = self.0.iter().position(|(key, _)| *key == name) else {
            return Ok(None);
        };
        decode(self.0.swap_remove(at).1).map(Some)
    }

    /// Refuses what nobody has taken, by its name alone: the value may be a password.
    fn finish(self) -> Result<(), ConfigError> {
        match self.0.first() {
            Some((name, _)) => Err(bad_url("has a parameter that is not known here", name)),
            None => Ok(()),
        }
    }
}

fn bad_url(problem: &'static str, value: &str) -> ConfigError {
    ConfigError::Url {
        problem,
        value: value.to_owned(),
    }
}

fn decode(text: &str) -> Result<String, ConfigError> {
    percent_decode_str(text)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| bad_url("has percent-encoding that is not UTF-8", ""))
}

fn parse_login(text: &str) -> Result<Login, ConfigError> {
    if text.is_empty() {
        return Ok(Login::default());
    }
    let (user, password) = text
        .split_once(':')
        .ok_or_else(|| bad_url("has a login that is not user:password", ""))?;
    let some = |text: &str| -> Result<Option<String>, ConfigError> {
        Ok(Some(decode(text)?).filter(|text| !text.is_empty()))
    };
    Ok(Login {
        user: some(user)?,
        password: some(password)?,
    })
}

fn all(field: &'static str, hosts: &str, default_port: u16) -> Result<Vec<String>, ConfigError> {
    hosts
        .split(',')
        .map(|host| parse_address(field, host, default_port))
        .collect()
}

/// `host`, `host:port` or `[v6]:port`, in the canonical form with a port.
pub(super) fn parse_address(
    field: &'static str,
    text: &str,
    default_port: u16,
) -> Result<String, ConfigError> {
    split_address(text, default_port)
        .map(|(host, port)| follow::address(&host, port))
        .ok_or_else(|| ConfigError::Address {
            field,
            value: text.to_owned(),
        })
}

pub(super) fn split_address(text: &str, default_port: u16) -> Option<(String, u16)> {
    let text = text.trim();
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        if !rest.is_empty() && !rest.starts_with(':') {
            return None;
        }
        (host, rest.strip_prefix(':'))
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = port.map_or(Some(default_port), |port| port.parse().ok())?;
    let clean =
        !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/@,?#".contains(c));
    (clean && port != 0).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::super::config::{Config, Servers};
    use super::*;

    fn url(text: &str) -> Result<Config, ConfigError> {
        Builder::default().url(text)?.check()
    }

    #[test]
    fn urls_name_one_node_or_the_sentinels() {
        let config = url("redis://10.0.0.1").unwrap();
        assert!(matches!(config.servers, Servers::Single(node) if node == "10.0.0.1:6379"));

        let config = url("redis://app:p%40ss@[::1]:7000/3").unwrap();
        assert!(matches!(config.servers, Servers::Single(node) if node == "[::1]:7000"));
        assert_eq!(config.login.user.as_deref(), Some("app"));
        assert_eq!(config.login.password.as_deref(), Some("p@ss"));
        assert_eq!(config.db, 3);

        let config =
            url("redis+sentinel://:secret@h1,h2:2,h3/mymaster/1?sentinel_password=x").unwrap();
        let Servers::Sentinel { name, sentinels } = config.servers else {
            panic!("no sentinels");
        };
        assert_eq!(name, "mymaster");
        assert_eq!(sentinels, ["h1:26379", "h2:2", "h3:26379"]);
        assert_eq!(config.login.user, None);
        assert_eq!(config.sentinel_login.password.as_deref(), Some("x"));
        assert_eq!(config.db, 1);

        let config = url("redis+cluster://app:s@h1,[::1]:7001").unwrap();
        assert!(
            matches!(config.servers, Servers::Cluster(nodes) if nodes == ["h1:6379", "[::1]:7001"])
        );
    }

    #[test]
    fn bad_urls_are_refused_by_part_and_never_repeat_a_password() {
        for (text, part) in [
            ("10.0.0.1:6379", "scheme"),
            ("http://:hunter2@h", "http"),
            ("redis://", "no host"),
            ("redis://:hunter2@", "no host"),
            ("redis://hunter2@h", "user:password"),
            ("redis://app:hunter2/x@h", "percent-encode"),
            ("redis://app:hunter2?x@h", "percent-encode"),
            ("redis+sentinel://app:x/hunter2@h1,h2/m", "percent-encode"),
            ("redis://h:port", "h:port"),
            ("redis://h:0", "h:0"),
            ("redis://h:70000", "h:70000"),
            ("redis://[::1", "[::1"),
            ("redis://a,b", "more than one host"),
            ("redis://h/x", "database"),
            ("redis://h/-1", "db is -1"),
            ("redis://h?x=hunter2", "parameter"),
            ("redis+cluster://", "no host"),
            ("redis+cluster://h1,h2:x", "h2:x"),
            ("redis+cluster://h1/3", "db is 3"),
            ("redis+cluster://h1?sentinel_user=x", "sentinel_user"),
            ("redis://h?tls_ca_file=/x", "tls_ca_file"),
            #[cfg(feature = "tls")]
            (
                "rediss://:hunter2@h?tls_ca_file=/no/such.pem",
                "/no/such.pem",
            ),
            #[cfg(not(feature = "tls"))]
            ("rediss://:hunter2@h", "feature `tls`"),
            ("redis+sentinel://h1,h2", "master name"),
            ("redis+sentinel://h1,,h2/m", "sentinel"),
            ("redis+sentinel://h1/m?x=hunter2", "parameter"),
            ("redis://:%ff@h", "UTF-8"),
        ] {
            let error = url(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{text}: {error}");
        }
    }
}
