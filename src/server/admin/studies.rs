//! The reports of the folder that `--studies-dir` names.

use serde::Serialize;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// Files that are listed.
const FILES_MAX: usize = 1000;
/// Bytes of a report that is opened.
const FILE_BYTES_MAX: u64 = 32 << 20;

/// A report.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    name: String,
    bytes: u64,
    /// When it was written, in seconds since 1970.
    written: u64,
}

/// The pages of a folder, the newest first. Blocks.
pub fn list(folder: &Path) -> Result<Vec<Report>, String> {
    let named = |error: std::io::Error| format!("--studies-dir {}: {error}", folder.display());
    let mut reports = Vec::new();
    for entry in fs::read_dir(folder).map_err(named)?.flatten().take(FILES_MAX) {
        let name = entry.file_name().to_string_lossy().into_owned();
        // Of a link, what it is itself: nothing beyond the folder is read.
        let Ok(found) = entry.metadata() else { continue };
        if is_page(&name) && found.is_file() {
            let written = found.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            let written = written.unwrap_or_default().as_secs();
            reports.push(Report { name, bytes: found.len(), written });
        }
    }
    reports.sort_by(|a, b| b.written.cmp(&a.written).then_with(|| a.name.cmp(&b.name)));
    Ok(reports)
}

/// A page of the folder. Blocks.
pub fn read(folder: &Path, name: &str) -> Result<Vec<u8>, String> {
    if !list(folder)?.iter().any(|report| report.name == name) {
        return Err(format!("{name:?} is no report of --studies-dir {}", folder.display()));
    }
    let named = |error: std::io::Error| format!("{name}: {error}");
    let mut bytes = Vec::new();
    let file = File::open(folder.join(name)).map_err(named)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(named)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{name} has more than {FILE_BYTES_MAX} bytes; open it where it lies"));
    }
    Ok(bytes)
}

/// A name that an address can have as it is.
fn is_page(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.ends_with(".html") && !name.starts_with('.') && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_listed_and_nothing_else_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::write(folder.path().join("a.html"), "page").unwrap();
        fs::write(folder.path().join("study.journal"), "journal").unwrap();
        fs::create_dir(folder.path().join("folder.html")).unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link.html")).unwrap();
        let names: Vec<_> =
            list(folder.path()).unwrap().into_iter().map(|report| report.name).collect();
        assert_eq!(names, ["a.html"]);
        assert_eq!(read(folder.path(), "a.html").unwrap(), b"page");
        for name in ["link.html", "study.journal", "../a.html", "", "folder.html", "/etc/passwd"] {
            assert!(read(folder.path(), name).unwrap_err().contains("is no report"), "{name}");
        }
        assert!(list(Path::new("/no/such")).unwrap_err().contains("--studies-dir /no/such"));
    }
}
