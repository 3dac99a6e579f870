//! What is wrong with a node's certificate.

use rustls::CertificateError;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::ConnectError;
use crate::tls::Tls;

/// The session cache is shared by all of them, so that a connection can go on from an earlier handshake.
pub(crate) fn connector(tls: &Tls) -> MakeRustlsConnect {
    MakeRustlsConnect::new((**tls.config()).clone())
}

/// What is wrong with a node's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CertificateProblem {
    /// No trusted authority has signed it. Give its authority to [`Tls`]'s builder.
    UnknownAuthority,
    /// It is for another host than the node's `host`. Give `host` as the certificate has it, with the address in `hostaddr`.
    WrongHost,
    /// It has expired, or is not valid yet: look at the certificate and at both clocks.
    Expired,
    /// Something else: the source says what.
    Other,
}

/// Tells a certificate's problem from other failures to connect.
pub(crate) fn classify(error: tokio_postgres::Error) -> ConnectError {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    let mut problem = None;
    while let Some(error) = next {
        // An io::Error passes on the source of what it wraps, not that itself.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .and_then(|inner| inner.downcast_ref());
        if let Some(rustls::Error::InvalidCertificate(reason)) = inner.or(error.downcast_ref()) {
            problem = Some(match reason {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    CertificateProblem::UnknownAuthority
                }
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => CertificateProblem::WrongHost,
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => CertificateProblem::Expired,
                _ => CertificateProblem::Other,
            });
        }
        next = error.source();
    }
    match problem {
        Some(problem) => ConnectError::Certificate {
            problem,
            source: error,
        },
        None => ConnectError::Postgres(error),
    }
}
