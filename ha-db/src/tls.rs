//! Encrypted links: whom to trust, and who we are.
//!
//! A server's certificate has to be valid, signed by somebody trusted, and made out for the host that was dialled; there is no way to
//! turn that off. The cryptography is *ring*'s, named for each connection, so that it neither needs nor disturbs a default of the process.
//!
//! ```
//! use ha_db::tls::Tls;
//!
//! # fn example() -> Result<(), ha_db::tls::TlsError> {
//! let tls = Tls::builder().ca_file("/etc/ssl/redis-ca.pem").build()?;
//! # drop(tls);
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Why TLS could not be set up. Nothing was connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{field}: {} cannot be read", path.display())]
    File {
        /// The setting.
        field: &'static str,
        /// What was given.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A text is not PEM, or holds nothing of what is wanted.
    #[error("{field}: {problem}")]
    Pem {
        /// The setting.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The system trusts nobody, and no authority was named.
    #[error(
        "ca_file is not set, and the system's list of certificate authorities is empty: {problem}"
    )]
    NoRoots {
        /// What was found out about the system's list.
        problem: String,
    },
    /// rustls refuses the combination, such as a key that is not the certificate's.
    #[error("client_pem: not usable")]
    Refused(#[source] rustls::Error),
}

/// How links are encrypted. Cheap to clone.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Starts a configuration.
    pub fn builder() -> TlsBuilder {
        TlsBuilder::default()
    }

    /// Takes a configuration of rustls as it is, for what the builder does not offer.
    #[must_use]
    pub fn from_config(config: Arc<ClientConfig>) -> Self {
        Self(config)
    }

    /// What rustls is told.
    #[must_use]
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.0
    }
}

/// Settings of a [`Tls`].
#[derive(Clone, Default)]
#[must_use = "nothing is set up before `build`"]
pub struct TlsBuilder {
    ca_files: Vec<PathBuf>,
    ca_pems: Vec<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for TlsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsBuilder")
            .field("ca_files", &self.ca_files)
            .finish_non_exhaustive()
    }
}

impl TlsBuilder {
    /// Trusts the authorities in this PEM file, and with it no longer those of the system. May be given again.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_files.push(path.into());
        self
    }

    /// As [`ca_file`](Self::ca_file), with the text itself.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_pems.push(pem.into());
        self
    }

    /// Our own certificate, with those between it and its authority, and its key, both PEM; default: none.
    pub fn client_pem(mut self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.client = Some((chain.into(), key.into()));
        self
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// [`TlsError`], naming the setting and its value; never repeating a key.
    pub fn build(self) -> Result<Tls, TlsError> {
        let mut roots = RootCertStore::empty();
        for path in &self.ca_files {
            let pem = std::fs::read(path).map_err(|source| TlsError::File {
                field: "ca_file",
                path: path.clone(),
                source,
            })?;
            add(&mut roots, "ca_file", &pem)?;
        }
        for pem in &self.ca_pems {
            add(&mut roots, "ca_pem", pem)?;
        }
        if roots.is_empty() {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let problem = found
                    .errors
                    .first()
                    .map_or_else(|| "no error".to_owned(), ToString::to_string);
                return Err(TlsError::NoRoots { problem });
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Refused)?
            .with_root_certificates(roots);
        let config = match self.client {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = certificates("client_pem", &chain)?;
                let key = PrivateKeyDer::from_pem_slice(&key)
                    .map_err(|error| pem("client_pem", &error))?;
                config
                    .with_client_auth_cert(chain, key)
                    .map_err(TlsError::Refused)?
            }
        };
        Ok(Tls(Arc::new(config)))
    }
}

fn add(roots: &mut RootCertStore, field: &'static str, text: &[u8]) -> Result<(), TlsError> {
    for certificate in certificates(field, text)? {
        roots.add(certificate).map_err(|error| pem(field, &error))?;
    }
    Ok(())
}

fn certificates(
    field: &'static str,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| pem(field, &error))?;
    if found.is_empty() {
        return Err(pem(field, &"holds no certificate"));
    }
    Ok(found)
}

fn pem(field: &'static str, problem: &dyn fmt::Display) -> TlsError {
    TlsError::Pem {
        field,
        problem: problem.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_refused_by_field_and_value() {
        let build = |builder: TlsBuilder| builder.build().unwrap_err().to_string();
        for (builder, part) in [
            (
                Tls::builder().ca_file("/no/such.pem"),
                "ca_file: /no/such.pem",
            ),
            (
                Tls::builder().ca_pem("nonsense"),
                "ca_pem: holds no certificate",
            ),
            (
                Tls::builder()
                    .ca_pem("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"),
                "ca_pem: ",
            ),
        ] {
            let error = build(builder);
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn debug_output_hides_keys() {
        let builder = Tls::builder().client_pem("chain", "hunter2");
        assert!(!format!("{builder:?}").contains("hunter2"));
    }
}
