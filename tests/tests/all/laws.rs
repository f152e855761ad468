//! Who may know whom, and how errors are logged.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Returns every Rust file under a folder, with its code and without its comments.
fn code_under(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            files.extend(code_under(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&entry).expect("a text");
            let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
            files.push((entry, code.collect::<Vec<_>>().join("\n")));
        }
    }
    files
}

/// Returns the packages of ours that a package builds on.
fn dependencies_of(package: &str) -> Vec<String> {
    let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).expect("a manifest");
    let (_, dependencies) = manifest.split_once("[dependencies]").expect("every package has dependencies");
    let dependencies = dependencies.lines().skip(1).take_while(|line| !line.starts_with('['));
    let names = dependencies.filter_map(|line| line.split(['.', ' ', '=']).next());
    names
        .filter(|name| ["domain", "migration", "oms", "saga", "oms-tests"].contains(name))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_engine_knows_neither_the_domain_nor_any_saga() {
    let files = code_under(&root().join("saga/src/engine"));
    assert!(files.len() > 5, "the engine has moved; let this test follow");
    let own = ["domain", "migration", "place_order", "payment_gateway", "crate::verify"];
    for (path, code) in files {
        for name in own {
            let is_known = code
                .match_indices(name)
                .any(|(at, _)| code[at + name.len()..].trim_start().starts_with("::"));
            assert!(!is_known, "{} names {name}", path.display());
        }
    }
}

#[test]
fn imports_point_down() {
    assert_eq!(dependencies_of("migration"), [] as [&str; 0]);
    assert_eq!(dependencies_of("domain"), [] as [&str; 0]);
    assert_eq!(dependencies_of("saga"), ["domain"]);
    assert_eq!(dependencies_of("api"), ["domain", "migration", "saga"]);
}

#[test]
fn only_the_graphql_layer_knows_graphql() {
    for package in ["domain", "saga", "migration"] {
        for (path, code) in code_under(&root().join(package).join("src")) {
            assert!(!code.contains("async_graphql"), "{}", path.display());
        }
    }
}

#[test]
fn the_log_tells_errors_with_all_that_caused_them() {
    for folder in ["api/src", "saga/src"] {
        for (path, code) in code_under(&root().join(folder)) {
            // The field of a log line: `error` alone would tell of the outermost cause.
            for outermost in ["%error", "?error", "error = %source", "%cause"] {
                assert!(!code.contains(outermost), "{} logs {outermost}", path.display());
            }
        }
    }
}
