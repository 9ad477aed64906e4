//! The arrows between the rooms of the house point one way, and what is dangerous stays where it is
//! looked for. Each rule is also shown a violation that it must catch.
//!
//! The sources are read as tokens, so comments and strings do not count; `#[cfg(test)]` modules may
//! reach further than the code they test, except for `unsafe`.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::BTreeMap;
use std::path::Path;

/// The packages, and where the path of a file in each begins.
const PACKAGES: &[(&str, &str)] = &[
    ("logitd", ""),
    ("logitd_client", "client/"),
    ("logitd_core", "core/"),
    ("logitd_kernels", "kernels/"),
    ("logitd_proto", "proto/"),
    ("logitd_python", "python/"),
];

/// Which rooms a room may know. Rooms are packages, or the modules at the root of `logitd` and of `logitd-core`;
/// `core` is all of the latter.
const ROOMS: &[(&str, &[&str])] = &[
    ("kernels", &[]),
    ("core/arithmetic", &[]),
    ("core/params", &["core/arithmetic"]),
    ("core/adjustments", &["core/params"]),
    ("core/status", &[]),
    ("core/inspection", &["core/status"]),
    ("core/row", &["core/adjustments", "core/inspection", "core/params"]),
    ("core/batch", &["core/row", "core/inspection", "core/params", "core/status"]),
    (
        "core/beams",
        &["core/adjustments", "core/batch", "core/inspection", "core/params", "core/status"],
    ),
    ("core/verify", &["core/batch", "core/adjustments", "core/row", "core/params"]),
    ("core/candidates", &["core/batch", "core/arithmetic"]),
    (
        "core/backend",
        &[
            "kernels",
            "core/adjustments",
            "core/row",
            "core/batch",
            "core/inspection",
            "core/params",
            "core/status",
            "core/arithmetic",
        ],
    ),
    (
        "core/evaluate",
        &["core/backend", "core/batch", "core/params", "core/status", "core/arithmetic"],
    ),
    ("proto", &[]),
    ("client", &["proto"]),
    ("python", &["client", "core"]),
    ("wire", &["core", "proto"]),
    ("files", &["core", "wire"]),
    ("study", &["core", "files"]),
    ("devices", &["core"]),
    ("record", &["core", "proto", "wire"]),
    ("engine", &["core"]),
    ("plane", &["core", "proto"]),
    ("tools", &["client", "core", "files", "proto", "record", "wire"]),
    ("config", &["core", "devices", "engine", "files", "plane", "record", "wire"]),
    ("server", &["config", "core", "engine", "files", "plane", "proto", "record", "wire"]),
    (
        "cli",
        &[
            "client", "config", "core", "devices", "engine", "files", "plane", "proto", "record",
            "server", "study", "tools", "wire",
        ],
    ),
    ("main", &["cli"]),
];

/// Crates that are only for some places: a crate is named by the start of its name.
const CRATES: &[(&str, &[&str])] = &[
    ("tonic", &["server", "client", "proto"]),
    ("prost", &["server", "client", "proto", "record"]),
    ("tokio", &["engine", "server", "client", "tools", "cli", "python/client/"]),
    ("clap", &["cli", "config"]),
    ("rayon", &["core/backend/cpu", "core/backend/team.rs"]),
    ("cudarc", &["core/backend/cuda"]),
    ("pyo3", &["python"]),
];

/// All that the arithmetic stands on.
const ARITHMETIC_CRATES: &[&str] = &["core", "half", "libm"];
/// Where `unsafe` may be: vector instructions, devices, and memory that others share.
const UNSAFE: &[&str] = &[
    "core/backend/cpu/",
    "core/backend/cuda/",
    "plane/mapped.rs",
    "client/region.rs",
    "python/memory/",
];
/// The oracle.
const ORACLE: &str = "core/backend/reference.rs";
/// The oracle of evaluation.
const ORACLE_OF_SETS: &str = "core/evaluate/reference.rs";
/// Its other files.
const ORACLE_FILES: &str = "core/backend/reference/";
/// The oracle works out plans, cuts and draws by itself, to stay an independent opinion.
const NOT_FOR_REFERENCE: &[[&str; 3]] = &[
    ["core", "arithmetic", "plan"],
    ["core", "arithmetic", "cut"],
    ["core", "arithmetic", "draw"],
    ["core", "arithmetic", "deviation"],
    ["core", "arithmetic", "head"],
    ["core", "arithmetic", "cutoffs"],
    ["core", "arithmetic", "mirostat"],
    ["core", "arithmetic", "xtc"],
    ["core", "arithmetic", "adaptive"],
    ["core", "arithmetic", "dynatemp"],
    ["core", "arithmetic", "stages"],
    ["core", "adjustments", "changes"],
];

#[test]
fn every_arrow_points_the_right_way() {
    let files = sources();
    assert!(files.len() > 20, "only {} files found", files.len());
    let violations: Vec<String> = files.iter().flat_map(violations).collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn every_room_has_its_arrows_and_they_make_no_circle() {
    for file in sources().iter().filter(|file| !file.is_root()) {
        let room = file.room();
        assert!(allowed(&room).is_some(), "{}: say in ROOMS whom `{room}` may know", file.path);
    }
    // A room may only know rooms that stand before it, so there is no way back.
    for (place, (room, knows)) in ROOMS.iter().enumerate() {
        for known in *knows {
            let before = ROOMS[..place].iter().any(|(other, _)| is_within(other, known));
            assert!(before, "{room} knows {known}, which does not stand before it");
        }
    }
}

#[test]
fn the_files_of_a_folder_make_no_circle() {
    let files = sources();
    let mut folders: BTreeMap<&str, Vec<&Source>> = BTreeMap::new();
    for file in &files {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        // What is listed there is known to all beside it, and knows all of them.
        let lists = file.path.ends_with("mod.rs") || file.path.ends_with("lib.rs");
        if !lists || ALL_BESIDE_THEIR_LIST.contains(&folder) {
            folders.entry(folder).or_default().push(file);
        }
    }
    assert!(folders.len() > 20, "only {} folders found", folders.len());
    for (folder, files) in folders {
        assert_eq!(in_circles(&files), [""; 0], "in {folder}");
    }
}

/// Folders in which no file needs what stands in `mod.rs`.
const ALL_BESIDE_THEIR_LIST: &[&str] = &["core/backend/cpu"];

/// The files of a folder that know each other in a circle, or know one that does. `mod.rs` knows all others.
fn in_circles(files: &[&Source]) -> Vec<String> {
    let name = |file: &Source| file.module().last().cloned().unwrap_or("main".into());
    let known = |file: &Source| match file.path.ends_with("/mod.rs") {
        true => files.iter().map(|file| name(file)).collect(),
        false => known_beside(file),
    };
    let mut left: Vec<(String, Vec<String>)> =
        files.iter().map(|file| (name(file), known(file))).collect();
    // A file that knows nobody who is left is in no circle.
    loop {
        let before = left.len();
        let names: Vec<String> = left.iter().map(|(name, _)| name.clone()).collect();
        left.retain(|(name, known)| {
            known.iter().any(|known| known != name && names.contains(known))
        });
        if left.len() == before {
            return names;
        }
    }
}

/// Which files of its folder a file knows.
fn known_beside(file: &Source) -> Vec<String> {
    let tokens: TokenStream = file.text.parse().expect("a source file is Rust");
    let mut code = Vec::new();
    paths(&without_tests(tokens), &[], &mut code);
    let mut folder = file.module();
    folder.pop();
    let beside = |path: &Written| {
        let path = file.resolve(&path.parts)?;
        let rest = path.strip_prefix(&folder[..])?;
        // What is no file beside is in `mod.rs`, which bears the folder's name.
        let is_file = rest.first().is_some_and(|name| name.starts_with(char::is_lowercase));
        Some(if is_file { rest[0].clone() } else { folder.last()?.clone() })
    };
    code.iter().filter_map(beside).collect()
}

/// A file of a package.
struct Source {
    /// Its path below the `src/` of its package, with `/`, after what [`PACKAGES`] has for that.
    path: String,
    text: String,
}

impl Source {
    fn room(&self) -> String {
        room_of(&self.module())
    }

    /// Whether it is where the rooms of a package are listed.
    fn is_root(&self) -> bool {
        self.path.strip_prefix(self.package()) == Some("lib.rs")
            && ["", "core/"].contains(&self.package())
    }

    fn is_oracle(&self) -> bool {
        [ORACLE, ORACLE_OF_SETS].contains(&&*self.path) || self.path.starts_with(ORACLE_FILES)
    }

    /// The path of the module, from where all packages are.
    fn module(&self) -> Vec<String> {
        let path = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        let parts = path.split('/').filter(|part| !["mod", "lib", "main"].contains(part));
        parts.map(str::to_owned).collect()
    }

    /// Where its package begins.
    fn package(&self) -> &'static str {
        let of = |(_, at): &&(&str, &'static str)| !at.is_empty() && self.path.starts_with(at);
        PACKAGES.iter().find(of).map_or("", |(_, at)| at)
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| {
            let place = place.trim_end_matches('/');
            let rest = self.path.strip_prefix(place);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.']))
        })
    }
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<Source>) {
        let entries = folder.read_dir().unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries {
            let path = entry.expect("an entry of a folder").path();
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(root).expect("found below it");
                let text = std::fs::read_to_string(&path).expect("a source file is text");
                found.push(Source { path: below.to_string_lossy().replace('\\', "/"), text });
            }
        }
    }
    let mut found = Vec::new();
    for (_, package) in PACKAGES {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(package).join("src");
        let from = found.len();
        walk(&root, &root, &mut found);
        found[from..].iter_mut().for_each(|file| file.path.insert_str(0, package));
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The room of what a path leads to.
fn room_of(path: &[String]) -> String {
    match path {
        [core, module, ..] if core == "core" => format!("core/{module}"),
        [room, ..] => room.clone(),
        [] => "main".into(),
    }
}

/// Whether a room is another, or in it.
fn is_within(room: &str, other: &str) -> bool {
    room.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn allowed(room: &str) -> Option<&'static [&'static str]> {
    ROOMS.iter().find(|(name, _)| *name == room).map(|(_, knows)| *knows)
}

/// Every rule, over one file.
fn violations(file: &Source) -> Vec<String> {
    let tokens: TokenStream =
        file.text.parse().unwrap_or_else(|e| panic!("{} is not Rust: {e}", file.path));
    let mut code = Vec::new();
    paths(&without_tests(tokens.clone()), &[], &mut code);
    let mut found = Vec::new();
    let mut complain = |line: usize, what: String| {
        found.push(format!("{}:{line}: {what}", file.path));
    };
    let own = file.room();
    let knows = allowed(&own).unwrap_or_default();
    for path in &code {
        let written = path.parts.join("::");
        match file.resolve(&path.parts) {
            Some(inside) => {
                let room = room_of(&inside);
                let other = room != own && allowed(&room).is_some() && !file.is_root();
                if other && !knows.iter().any(|known| is_within(&room, known)) {
                    complain(path.line, format!("{own} may not know {room}: {written}"));
                }
                let starts =
                    |path: &&[&str; 3]| inside.iter().zip(path.iter()).all(|(a, b)| a == b);
                let forbidden = NOT_FOR_REFERENCE.iter().find(starts);
                if file.is_oracle() && forbidden.is_some() {
                    complain(path.line, format!("the oracle works this out itself: {written}"));
                }
            }
            None => {
                let root = path.parts[0].as_str();
                for (start, places) in CRATES.iter().filter(|(start, _)| is_of(root, start)) {
                    if !file.is_in(places) {
                        complain(path.line, format!("{start} belongs in {places:?}: {written}"));
                    }
                }
                let stranger = path.is_use || NOT_IN_CORE.contains(&root);
                if own == "core/arithmetic" && stranger && !ARITHMETIC_CRATES.contains(&root) {
                    complain(path.line, format!("the arithmetic knows no such crate: {written}"));
                }
            }
        }
    }
    if file.is_oracle() {
        // A plan can be asked for without a path: by a method of the parameters.
        for line in method_lines(&without_tests(tokens.clone()), "plan") {
            complain(line, "the oracle works this out itself: plan()".into());
        }
    }
    let mut lines = Vec::new();
    unsafe_lines(tokens, &mut lines);
    for line in lines {
        if !file.is_in(UNSAFE) {
            complain(line, format!("unsafe belongs in {UNSAFE:?}"));
        } else if !is_justified(&file.text, line) {
            complain(line, "unsafe without a SAFETY comment above it".into());
        }
    }
    found
}

/// Crates that could be named in a path without a `use`.
const NOT_IN_CORE: &[&str] = &["std", "alloc", "logitd", "bytes", "serde", "rayon", "tracing"];

/// `tonic` and `tonic_types` are of `tonic`; `tonics` is not.
fn is_of(name: &str, start: &str) -> bool {
    name.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// A path as it is written, groups of a `use` spread out.
struct Written {
    parts: Vec<String>,
    line: usize,
    /// Whether it stands in a `use` declaration.
    is_use: bool,
}

impl Source {
    /// The path from where all packages are, if it leads into one of them by a word that says so.
    fn resolve(&self, parts: &[String]) -> Option<Vec<String>> {
        let root = |package: &str| -> Vec<String> {
            package.split_terminator('/').map(str::to_owned).collect()
        };
        let first = parts[0].as_str();
        let mut at = match first {
            "crate" => root(self.package()),
            "self" | "super" => self.module(),
            _ => root(PACKAGES.iter().find(|(name, _)| *name == first)?.1),
        };
        let rest = if matches!(first, "self" | "super") { parts } else { &parts[1..] };
        for part in rest {
            match part.as_str() {
                "self" => (),
                "super" => drop(at.pop()),
                name => at.push(name.to_owned()),
            }
        }
        Some(at)
    }
}

/// Collects every path; `prefix` is what a group of a `use` continues.
fn paths(tokens: &[TokenTree], prefix: &[String], found: &mut Vec<Written>) {
    let mut in_use = !prefix.is_empty();
    let mut i = 0;
    while i < tokens.len() {
        match &tokens[i] {
            TokenTree::Ident(word) if word == "use" => in_use = true,
            // The new name of a `use` is not a path.
            TokenTree::Ident(word) if word == "as" && in_use => i += 1,
            TokenTree::Ident(first) => {
                let mut parts = prefix.to_vec();
                parts.push(first.to_string());
                let line = first.span().start().line;
                let mut group = None;
                while is_path_separator(&tokens[i + 1..]) {
                    match tokens.get(i + 3) {
                        Some(TokenTree::Ident(next)) => parts.push(next.to_string()),
                        Some(TokenTree::Group(g)) if g.delimiter() == Delimiter::Brace => {
                            group = Some(g.stream());
                        }
                        _ => break,
                    }
                    i += 3;
                    if group.is_some() {
                        break;
                    }
                }
                match group {
                    Some(group) => {
                        let inner: Vec<TokenTree> = group.into_iter().collect();
                        paths(&inner, &parts, found);
                    }
                    None if in_use || parts.len() > 1 => {
                        found.push(Written { parts, line, is_use: in_use });
                    }
                    None => (),
                }
            }
            TokenTree::Punct(mark) if mark.as_char() == ';' => in_use = false,
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                paths(&inner, &[], found);
            }
            _ => (),
        }
        i += 1;
    }
}

fn is_path_separator(tokens: &[TokenTree]) -> bool {
    let colon =
        |t: Option<&TokenTree>| matches!(t, Some(TokenTree::Punct(p)) if p.as_char() == ':');
    colon(tokens.first()) && colon(tokens.get(1))
}

/// Leaves out what follows a `#[cfg(test)]`, up to the end of its block or its semicolon.
fn without_tests(tokens: TokenStream) -> Vec<TokenTree> {
    let mut kept: Vec<TokenTree> = Vec::new();
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        let is_test = matches!(&token, TokenTree::Group(g) if g.delimiter() == Delimiter::Bracket
            && g.stream().to_string().replace(' ', "") == "cfg(test)");
        if !is_test {
            kept.push(token);
            continue;
        }
        let ends = |t: &TokenTree| match t {
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            TokenTree::Punct(mark) => mark.as_char() == ';',
            _ => false,
        };
        let _ = tokens.by_ref().find(ends);
    }
    kept
}

/// Where a method of this name is called.
fn method_lines(tokens: &[TokenTree], name: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Punct(dot) if dot.as_char() == '.' => {
                if let Some(TokenTree::Ident(word)) = tokens.get(i + 1)
                    && word == name
                {
                    lines.push(word.span().start().line);
                }
            }
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                lines.extend(method_lines(&inner, name));
            }
            _ => (),
        }
    }
    lines
}

/// Where something unsafe is done or declared. `unsafe fn(..)` without a name is a type.
fn unsafe_lines(tokens: TokenStream, lines: &mut Vec<usize>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (i, token) in tokens.iter().enumerate() {
        let is_type = || matches!(&tokens[i + 1..], [TokenTree::Ident(word), TokenTree::Group(_), ..] if word == "fn");
        match token {
            TokenTree::Ident(word) if word == "unsafe" && !is_type() => {
                lines.push(word.span().start().line);
            }
            TokenTree::Group(group) => unsafe_lines(group.stream(), lines),
            _ => (),
        }
    }
}

/// Whether the comment that ends right above the statement with `unsafe` in that line (or one in the
/// line itself) says why it is sound. A function says what it asks of its caller, under `# Safety`.
fn is_justified(text: &str, line: usize) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let says = |line: &str| line.contains("SAFETY:") || line.contains("# Safety");
    let is_comment = |line: &str| line.trim_start().starts_with("//");
    let above = lines[..line - 1].iter().rev();
    // The statement may have begun a few lines earlier, and attributes stand between.
    let mut comment = above.skip_while(|line| !is_comment(line) && !ends_a_statement(line));
    says(lines[line - 1]) || comment.by_ref().take_while(|line| is_comment(line)).any(|l| says(l))
}

fn ends_a_statement(line: &str) -> bool {
    let line = line.trim_end();
    line.is_empty() || line.ends_with([';', '}'])
}

/// Each rule catches what it is for.
mod planted {
    use super::*;

    fn caught(path: &str, text: &str) -> Vec<String> {
        violations(&Source { path: path.into(), text: text.into() })
    }

    fn assert_caught(path: &str, text: &str, what: &str) {
        let found = caught(path, text);
        assert!(found.len() == 1 && found[0].contains(what), "{path}: {text}\n{found:?}");
    }

    fn assert_clean(path: &str, text: &str) {
        assert_eq!(caught(path, text), [""; 0], "{path}: {text}");
    }

    #[test]
    fn an_arrow_that_points_back() {
        for text in [
            "use crate::server::Server;",
            "use crate::{batch::Row, server};",
            "use crate::{batch::{Row, Results}, server::{Server as S}};",
            "fn f() { crate::server::run() }",
            "fn f() { assert!(crate::server::on()) }",
            "use super::server::Server;",
            "fn f(x: &crate::server::X) {}",
            "use logitd::server::X;",
        ] {
            assert_caught("engine/mod.rs", text, "engine may not know server");
        }
        assert_caught("engine/a/b.rs", "use super::super::super::server::X;", "server");
        assert_caught(
            "core/batch.rs",
            "use super::backend::Backend;",
            "core/batch may not know core/backend",
        );
        assert_caught(
            "client/mod.rs",
            "use logitd_core::batch::Row;",
            "client may not know core/batch",
        );
        assert_caught(
            "proto/codec.rs",
            "use logitd_core::batch::Row;",
            "proto may not know core/batch",
        );
        assert_caught("engine/mod.rs", "use logitd_proto::shm;", "engine may not know proto");
        assert_caught("python/each.rs", "use logitd::wire::json;", "python may not know wire");
        assert_caught("engine/mod.rs", "use logitd_core::batch::Row;\n\nuse crate::cli;", ":3: ");
    }

    #[test]
    fn but_not_one_that_points_forward_or_is_not_code() {
        for text in [
            "use logitd_core::backend::{Backend, cpu::Cpu};",
            "use super::batch::Row; use self::server::X;",
            "// use crate::server::X;\nconst T: &str = \"crate::server\";",
            "/// See [`crate::server`].\nfn f() {}",
            "#[cfg(test)]\nmod tests { use crate::server::X; }",
        ] {
            assert_clean("engine/mod.rs", text);
        }
        assert_caught(
            "engine/mod.rs",
            "#[cfg(test)]\nuse crate::cli;\nuse crate::server;",
            "engine may not know server",
        );
    }

    #[test]
    fn a_crate_in_the_wrong_room() {
        for (path, text, what) in [
            ("engine/mod.rs", "fn f() -> tonic::Status { todo() }", "tonic belongs"),
            ("cli/demo.rs", "use tonic_types::StatusExt;", "tonic belongs"),
            ("core/backend/mod.rs", "use tokio::sync::Mutex;", "tokio belongs"),
            ("core/params.rs", "use tokio_util::sync::X;", "tokio belongs"),
            ("core/backend/dual.rs", "use ::cudarc::driver::X;", "cudarc belongs"),
            ("core/backend/cpu/cudarc.rs", "use cudarc::driver::X;", "cudarc belongs"),
            ("engine/mod.rs", "#[derive(clap::Args)] struct A;", "clap belongs"),
            ("core/params.rs", "use pyo3::prelude::*;", "pyo3 belongs"),
        ] {
            assert_caught(path, text, what);
        }
        assert_clean(
            "server/service.rs",
            "use tonic::Status; use tokio::time; use tonic_types::X;",
        );
        assert_clean("core/backend/cuda/mod.rs", "use cudarc::driver::X;");
    }

    #[test]
    fn a_stranger_in_the_arithmetic() {
        for text in ["use std::f32;", "fn f() { std::process::exit(1) }", "use rayon;"] {
            assert!(!caught("core/arithmetic/mass.rs", text).is_empty(), "{text}");
        }
        assert_caught(
            "core/arithmetic/mass.rs",
            "use logitd_core::batch::Row;",
            "may not know core/batch",
        );
        assert_clean(
            "core/arithmetic/mass.rs",
            "use super::key::key32; use half::f16; use core::f64; fn f() { libm::log(f64::MAX) }",
        );
    }

    #[test]
    fn an_oracle_that_copies() {
        for text in [
            "use logitd_core::arithmetic::cut;",
            "use logitd_core::arithmetic::{mass::mass, draw::target};",
            "fn f() { logitd_core::arithmetic::cut::top_p_target(1, 2) }",
            "use crate::arithmetic::plan::Step;",
            "fn f(row: &Row) { row.params().plan(); }",
        ] {
            assert_caught(ORACLE, text, "works this out itself");
        }
        assert_caught(ORACLE_OF_SETS, "use crate::arithmetic::cut;", "works this out itself");
        let file = "core/backend/reference/adjust.rs";
        assert_caught(file, "use crate::adjustments::changes::changes;", "works this out itself");
        assert_clean(ORACLE, "use crate::{arithmetic::key::key32, batch::Draw};");
        assert_clean("core/backend/cpu/mod.rs", "use logitd_core::arithmetic::cut;");
    }

    #[test]
    fn files_that_know_each_other() {
        let file = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
        let list = file("core/backend/cpu/list.rs", "use crate::backend::cpu::cut::Cut;");
        let cut = file("core/backend/cpu/cut.rs", "use super::blocks::BLOCK;");
        let blocks = file("core/backend/cpu/blocks.rs", "fn f() {}");
        assert_eq!(in_circles(&[&list, &cut, &blocks]), [""; 0]);
        let blocks = file("core/backend/cpu/blocks.rs", "fn f() { super::list::g() }");
        assert_eq!(in_circles(&[&list, &cut, &blocks]), ["list", "cut", "blocks"]);
        let module = file("core/backend/cpu/mod.rs", "mod list;");
        let list = file("core/backend/cpu/list.rs", "use super::Isa;");
        assert_eq!(in_circles(&[&module, &list]), ["cpu", "list"]);
    }

    #[test]
    fn unsafe_in_the_wrong_place_or_without_a_reason() {
        let reasoned = "fn f() {\n    // SAFETY: checked above.\n    unsafe { g() }\n}";
        assert_clean("core/backend/cpu/avx2.rs", reasoned);
        assert_clean("plane/mapped.rs", reasoned);
        assert_clean("plane/mapped.rs", "type Call = unsafe fn(u8) -> u8;");
        assert_caught("core/backend/dual.rs", reasoned, "unsafe belongs in");
        let in_tests = format!("#[cfg(test)]\nmod tests {{ {reasoned} }}");
        assert_caught("engine/mod.rs", &in_tests, "unsafe belongs in");
        for text in [
            "fn f() { unsafe { g() } }",
            "// SAFETY: of something else.\nlet a = 1;\nlet b = unsafe { g() };",
            "// SAFETY: far away.\n\nlet b = unsafe { g() };",
            "/// Fast.\npub unsafe fn f() {}",
        ] {
            assert_caught("core/backend/cpu/avx2.rs", text, "without a SAFETY comment");
        }
        for text in [
            "// SAFETY: long\n// reasons.\nlet b: u64 =\n    unsafe { g() };",
            "/// # Safety\n/// AVX2 must be there.\n#[inline]\npub unsafe fn f() {}",
            "let b = unsafe { g() }; // SAFETY: so.",
        ] {
            assert_clean("core/backend/cpu/avx2.rs", text);
        }
    }

    #[test]
    fn a_room_without_arrows() {
        assert!(allowed("attic").is_none());
    }
}
