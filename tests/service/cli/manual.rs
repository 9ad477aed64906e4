//! Completions and man pages: they know what the help knows.

use super::Folder;

/// The commands that the help lists.
fn commands(folder: &Folder) -> Vec<String> {
    let help = folder.ok(&["--help"]);
    let (_, list) = help.split_once("Commands:").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    let names = list.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !name.is_empty() && *name != "help").map(str::to_owned).collect()
}

/// The long flags that the help of a command lists.
fn flags(folder: &Folder, command: &str) -> Vec<String> {
    let help = folder.ok(&[command, "--help"]);
    let lines = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
    lines.map(|rest| rest.split([' ', '=', '[']).next().unwrap().to_owned()).collect()
}

#[test]
fn every_command_and_flag_is_completed() {
    let folder = Folder::new();
    let commands = commands(&folder);
    assert!(commands.len() > 9, "{commands:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = folder.ok(&["completions", shell]);
        for command in &commands {
            assert!(script.contains(command.as_str()), "{shell} does not know {command}");
            for flag in flags(&folder, command) {
                assert!(script.contains(&flag), "{shell} does not know {command} --{flag}");
            }
        }
    }
}

#[test]
fn every_command_has_a_page_with_all_its_flags() {
    let folder = Folder::new();
    let main = folder.ok(&["man"]);
    for command in commands(&folder) {
        assert!(
            main.contains(&format!("logitd\\-{command}(1)")),
            "{command} is not in the page of all"
        );
        let page = folder.ok(&["man", &command]);
        assert!(page.contains(&format!(".TH logitd-{command} 1")), "{page}");
        for flag in flags(&folder, &command) {
            let written = format!("\\-\\-{}", flag.replace('-', "\\-"));
            assert!(page.contains(&written), "the page of {command} lacks --{flag}");
        }
    }
}

#[test]
fn a_page_of_no_command_is_refused_with_the_names_of_all() {
    let error = Folder::new().error(&["man", "swerve"]);
    assert!(
        error.contains("there is no command \"swerve\"; the commands are serve, demo"),
        "{error}"
    );
    assert!(!error.contains("help"), "{error}");
}
