//! The files a server is started from.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::slot;
use crate::{StartError, process::Bed};

/// Copies the data directory of a server that does not run. The copy belongs to the bed's user.
pub(super) async fn copy(
    bed: &Bed,
    part: &str,
    from: PathBuf,
    to: PathBuf,
) -> Result<(), StartError> {
    let bed_too = bed.clone();
    let copied = tokio::task::spawn_blocking(move || copy_now(&bed_too, &from, &to)).await;
    copied
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(bed.failed(part, "copy the data directory"))
}

fn copy_now(bed: &Bed, from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    bed.give(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_now(bed, &entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            bed.give(&target)?;
        }
    }
    Ok(())
}

/// Adds lines to a configuration file.
pub(super) fn append(bed: &Bed, part: &str, file: &Path, lines: &str) -> Result<(), StartError> {
    let written = fs::OpenOptions::new()
        .append(true)
        .open(file)
        .and_then(|mut file| io::Write::write_all(&mut file, lines.as_bytes()));
    written.map_err(bed.failed(part, "write the configuration"))
}

/// Where a standby keeps that it is one.
pub(super) fn signal(data: &Path) -> PathBuf {
    data.join("standby.signal")
}

/// Makes the server that will be started on `data` a standby of `source`, which has a slot for it.
pub(super) fn make_standby(
    bed: &Bed,
    part: &str,
    data: &Path,
    source: &str,
) -> Result<(), StartError> {
    let lines = format!(
        "primary_conninfo = '{source} application_name={part}'\nprimary_slot_name = '{}'\n",
        slot(part)
    );
    append(bed, part, &data.join("postgresql.auto.conf"), &lines)?;
    let signal = signal(data);
    fs::write(&signal, "")
        .and_then(|()| fs::set_permissions(&signal, fs::Permissions::from_mode(0o600)))
        .and_then(|()| bed.give(&signal))
        .map_err(bed.failed(part, "mark it as a replica"))
}
