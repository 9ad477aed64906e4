//! Files that a command writes in the end: whether they can be written is asked before the work.

use std::fs::File;
use std::io;
use std::path::Path;

/// Refuses what cannot be written: `flag` named it. A file that is there stays as it is, and none is left behind.
pub fn check(flag: &str, path: &Path) -> Result<(), String> {
    writable(path).map_err(|error| format!("{flag} {}: {error}", path.display()))
}

fn writable(path: &Path) -> io::Result<()> {
    // Terminals, /dev/null, pipes: opening one might wait for ever.
    if path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return Ok(());
    }
    // Permissions do not say everything: of a file system that is read-only or full, only trying tells.
    match File::options().write(true).create_new(true).open(path) {
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            match (File::options().write(true).open(path), path.read_link()) {
                // A link to what is not there yet: writing makes it.
                (Err(error), Ok(target)) if error.kind() == io::ErrorKind::NotFound => {
                    writable(&path.with_file_name(target))
                }
                (opened, _) => opened.map(drop),
            }
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_told_and_what_can_is_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        assert_eq!(check("--out", &file), Ok(()));
        assert!(!file.exists());
        std::fs::write(&file, "milk").unwrap();
        assert_eq!(check("--out", &file), Ok(()));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "milk");
        assert_eq!(check("--out", Path::new("/dev/null")), Ok(()));
        #[cfg(unix)]
        {
            let link = |name: &str, target: &str| {
                let link = folder.path().join(name);
                std::os::unix::fs::symlink(target, &link).unwrap();
                link
            };
            let (dangling, further) = (link("dangling", "new"), link("further", "dangling"));
            for path in [&dangling, &further] {
                assert_eq!(check("--report", path), Ok(()));
                assert!(path.is_symlink() && !path.exists(), "a link is left as it was");
            }
            let beyond = link("beyond", "no/x");
            let said = check("--report", &beyond).unwrap_err();
            assert!(said.starts_with(&format!("--report {}: ", beyond.display())), "{said}");
            assert!(check("--report", &link("circle", "circle")).is_err());
        }
        // No folder, a file for one, a folder itself, and where nobody can make files, not even root.
        let beyond = [folder.path().join("no/x"), file.join("x"), folder.path().into()];
        for path in beyond.into_iter().chain(["/proc/logitd".into()]) {
            let said = check("--out", &path).unwrap_err();
            assert!(said.starts_with(&format!("--out {}: ", path.display())), "{said}");
        }
    }
}
