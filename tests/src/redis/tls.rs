//! Certificates of a bed's own, good for loopback.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::{StartError, process::Bed};

/// Writes `ca.pem`, `server.pem` and `server-key.pem` into a directory of the bed, and returns it.
pub(super) fn certificates(bed: &Bed) -> Result<PathBuf, StartError> {
    let dir = bed.make_dir("tls")?;
    let made = make().map_err(|error| StartError::Io {
        part: "tls".to_owned(),
        what: "make certificates",
        source: io::Error::other(error),
    })?;
    for (name, text) in ["ca.pem", "server.pem", "server-key.pem"]
        .into_iter()
        .zip(made)
    {
        write(bed, &dir, name, &text)?;
    }
    Ok(dir)
}

fn write(bed: &Bed, dir: &Path, name: &str, text: &str) -> Result<(), StartError> {
    let file = dir.join(name);
    fs::write(&file, text).map_err(bed.failed("tls", "write a certificate"))?;
    bed.give(&file)
        .map_err(bed.failed("tls", "hand a certificate over"))
}

/// The authority's certificate, the servers' and their key.
fn make() -> Result<[String; 3], rcgen::Error> {
    let mut authority = CertificateParams::new(Vec::new())?;
    // Two of the same name would pass for one that signed itself.
    let name = &mut authority.distinguished_name;
    name.push(DnType::CommonName, "test bed authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut server = CertificateParams::new(names)?;
    let name = &mut server.distinguished_name;
    name.push(DnType::CommonName, "localhost");
    let server = server.signed_by(&key, &authority)?;
    Ok([authority.pem(), server.pem(), key.serialize_pem()])
}
