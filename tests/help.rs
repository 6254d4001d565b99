//! What `--help` prints can be pasted, however narrow the terminal.

use clap::{Command, CommandFactory};
use scale_engine::cli::Cli;

/// Every command and its subcommands, with the words that call it.
fn commands(command: Command, words: &str, found: &mut Vec<(String, Command)>) {
    let words = format!("{words} {}", command.get_name());
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        commands(sub.clone(), &words, found);
    }
    found.push((words, command));
}

/// The long help in a terminal of so many columns.
fn help(command: &Command, columns: usize) -> String {
    command.clone().term_width(columns).render_long_help().to_string()
}

/// Lines of the examples: `  scale-engine ..`, and what follows a backslash.
fn examples(help: &str) -> Vec<&str> {
    let mut within = false;
    let mut found = Vec::new();
    for line in help.lines() {
        if within || line.starts_with("  scale-engine ") {
            within = line.ends_with('\\');
            found.push(line);
        }
    }
    found
}

#[test]
fn examples_are_not_broken_where_help_wraps() {
    let mut command = Cli::command();
    command.build();
    let mut all = Vec::new();
    commands(command, "", &mut all);
    let mut seen = 0;
    for (words, command) in &all {
        let (wide, narrow) = (help(command, 10_000), help(command, 80));
        seen += examples(&wide).len();
        for line in examples(&wide) {
            assert!(narrow.lines().any(|other| other == line), "{words} --help breaks:\n{line}");
        }
    }
    assert!(all.len() > 18 && seen > 30, "{} commands, {seen} lines of examples", all.len());
}
