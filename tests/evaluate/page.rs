//! The page of `--report` and the figures of `--plots`: what they say, and what a browser makes of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use scale_engine::evaluate::board::Board;
use scale_engine::evaluate::registry::Profile;
use scale_engine::evaluate::{Settings, figures, page};
use serde_json::{Value, json};

use super::{settings, simulated, write_h5ad};

/// Names that a file may hold, though nobody should use them.
const BAD: [&str; 2] = ["<script>alert('P')</script>", "a & \"b\" ü"];

/// A board of three perturbations and 30 genes; with `beside`, a baseline and the ceiling.
fn board(cell_type: Option<&str>, seed: u64, beside: bool, settings: &Settings) -> Board {
    let name = |mut side: scale_engine::evaluate::Side| {
        // An effect on six genes that grows with the label's code.
        let codes = side.labels.codes.clone();
        for (row, code) in side.x.values_mut().chunks_mut(30).zip(&codes) {
            row[..6].iter_mut().for_each(|x| *x += 0.5 * *code as f32);
        }
        let at = side.labels.names.iter().position(|name| name == "P002").expect("a perturbation");
        side.labels.names[at] = BAD[0].to_string();
        side.genes[0] = BAD[1].to_string();
        side
    };
    let side = |seed| name(simulated(&[60, 25, 30, 35], 30, 0.3, 0, seed));
    let settings = Settings { ceiling: beside, bootstrap: if beside { 40 } else { 0 }, ..settings.clone() };
    let other = side(seed + 2);
    let others = if beside { vec![("mean <b>", &other)] } else { Vec::new() };
    let cell_type = cell_type.map(String::from);
    Board::of(cell_type, &side(seed), &side(seed + 1), &others, &settings).expect("a board")
}

fn boards() -> Vec<Board> {
    let types = ["T/b <i>", "A"];
    types.into_iter().zip([1, 11]).map(|(name, seed)| board(Some(name), seed, true, &settings())).collect()
}

fn sources() -> Value {
    json!({ "real": { "path": "in/real.h5ad", "sha256": "0123456789abcdef" }, "pred": { "path": "pred.h5ad", "sha256": "ff" } })
}

fn drawings(html: &str) -> Vec<&str> {
    let from = |part: &'static str| html.match_indices(part).map(|(at, _)| at).collect::<Vec<_>>();
    from("<svg").into_iter().zip(from("</svg>")).map(|(start, end)| &html[start..end + 6]).collect()
}

/// Tags that close in reverse order of opening, quoted attributes, no bare `&`, no NaN and no infinity.
fn well_formed(xml: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = xml.trim();
    while let Some(start) = rest.find('<') {
        let (text, tag) = rest.split_at(start);
        let end = tag.find('>').ok_or("a tag without end")?;
        let inside = &tag[1..end];
        let name = inside.trim_matches('/').split([' ', '/']).next().unwrap_or_default();
        if inside.starts_with('/') {
            let last = open.pop();
            (last == Some(name)).then_some(()).ok_or(format!("</{name}> closes {last:?}"))?;
        } else if !inside.ends_with('/') {
            open.push(name);
        }
        if inside.matches('"').count() % 2 == 1
            || inside.contains('<')
            || inside.contains("NaN")
            || inside.contains("inf")
        {
            return Err(format!("<{inside}>"));
        }
        for entity in text.split('&').skip(1).chain(inside.split('&').skip(1)) {
            let known = ["amp;", "lt;", "gt;", "quot;", "#39;"].iter().any(|known| entity.starts_with(known));
            known.then_some(()).ok_or(format!("a bare & before {entity:?}"))?;
        }
        rest = &tag[end + 1..];
        if open.is_empty() && !rest.trim().is_empty() {
            return Err(format!("after the end: {rest:?}"));
        }
    }
    open.is_empty().then_some(()).ok_or(format!("left open: {open:?}"))
}

#[test]
fn a_page_holds_its_figures_and_asks_the_network_for_nothing() {
    let boards = boards();
    let html = page::html(&boards, &sources());
    for word in ["http", "//cdn", "url(", "@import", " src=", "<link", "<iframe", "fetch("] {
        assert!(!html.contains(word), "{word}");
    }
    assert!(!html.contains("<script>alert") && !html.contains("<i>") && !html.contains("mean <b>"));
    assert!(html.contains("&lt;script&gt;alert(&#39;P&#39;)") && html.contains("T/b &lt;i&gt;"));
    let svgs = drawings(&html);
    svgs.iter().for_each(|svg| well_formed(svg).unwrap_or_else(|wrong| panic!("{wrong} in {svg}")));
    let count = |title: &str| svgs.iter().filter(|svg| svg.contains(title)).count();
    // One for the overview and each of the two boards; three for each of a board's three perturbations.
    assert_eq!(count("aria-label=\"Effect size against PDCorr"), 3);
    assert_eq!(count("aria-label=\"Effect size against DEOver"), 3);
    assert_eq!(count("aria-label=\"Overlap of significant genes"), 3);
    assert_eq!(count("predicted against real change\" ") + count("predicted against real change\">"), 6);
    assert_eq!(count("real differential expression\">"), 6);
    assert_eq!(count("predicted differential expression\">"), 6);
    let text =
        ["ceiling", "cell-eval-0.6.6", "own control cells", "in/real.h5ad", "0123456789ab", "PDCorr", "95 %"];
    text.iter().for_each(|word| assert!(html.contains(word), "{word}"));
    assert!(html.contains(&format!("scale-engine {}", env!("CARGO_PKG_VERSION"))));
    assert_eq!(html, page::html(&boards, &sources()), "twice the same");
}

#[test]
fn what_a_profile_leaves_out_is_said_and_not_drawn() {
    let text = |profile| {
        let settings = Settings { profile, ..settings() };
        page::html(&[board(None, 1, false, &settings)], &Value::Null)
    };
    let (changes, tables) = ("predicted against real change", "differential expression\">");
    let anndata = text(Profile::Anndata);
    assert!(
        anndata.contains(changes)
            && !anndata.contains(tables)
            && anndata.contains("length of the real change")
    );
    assert!(anndata.contains("No volcano plots") && anndata.contains("No overlap of significant genes"));
    let de = text(Profile::De);
    assert!(!de.contains(changes) && de.contains(tables) && de.contains("No scatter of changes"));
    assert!(text(Profile::Pds).contains("Effect size against PDS_L1"));
    let skip = Settings { profile: Profile::Anndata, ..settings() };
    let mut bare = board(None, 1, false, &skip);
    (bare.report.changes, bare.report.tables) = (None, None);
    let bare = page::html(&[bare], &Value::Null);
    assert!(bare.contains("No figures of genes") && bare.contains("No effect size against score"));
    assert!(
        bare.contains("<h3>Scores</h3>") && page::html(&[], &Value::Null).contains("Nothing was compared")
    );
}

/// A board with an undefined measure, and with changes and tables at their extremes.
#[test]
fn flat_and_single_perturbations_are_drawn() {
    let real = simulated(&[1, 1], 3, 0.2, 0, 3);
    let mut flat = real.clone();
    flat.x.values_mut().fill(0.75);
    for (real, pred) in [(&real, &flat), (&flat, &flat), (&flat, &real)] {
        let board = Board::of(None, real, pred, &[], &settings()).expect("a board");
        let html = page::html(std::slice::from_ref(&board), &Value::Null);
        let svgs = drawings(&html);
        svgs.iter().for_each(|svg| well_formed(svg).unwrap_or_else(|wrong| panic!("{wrong} in {svg}")));
        assert!(svgs.iter().any(|svg| svg.contains("differential expression")));
    }
}

#[test]
fn many_genes_are_sampled_and_the_page_says_so() {
    let sizes: Vec<usize> = std::iter::once(6).chain(std::iter::repeat_n(2, 120)).collect();
    let side = |seed| simulated(&sizes, 900, 0.5, 0, seed);
    let skip = ["pearson_edistance".to_string()].to_vec();
    let settings = Settings { skip_metrics: skip, ..settings() };
    let board = Board::of(None, &side(1), &side(2), &[], &settings).expect("a board");
    let html = page::html(&[board], &Value::Null);
    assert!(html.contains("About 666 of 900 genes are drawn"), "what is left out is said");
    assert!(html.contains("The overlap shows the 26 largest effects of 120"));
    assert!(html.len() < 6 << 20, "{} bytes", html.len());
}

#[test]
fn plots_are_the_same_figures_as_files() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let boards = boards();
    assert_eq!(figures::write(dir.path(), &boards).expect("written"), 2 * (3 + 3 * 3));
    let entries =
        std::fs::read_dir(dir.path()).expect("a folder").map(|entry| entry.expect("an entry").path());
    let files: Vec<PathBuf> = entries.collect();
    assert_eq!(files.len(), 24);
    for file in &files {
        let text = std::fs::read_to_string(file).expect("text");
        // The style holds no tag and no bare &.
        well_formed(&text).unwrap_or_else(|wrong| panic!("{}: {wrong}", file.display()));
        assert!(text.starts_with("<svg xmlns=") && text.contains("<style>") && !text.contains("<a "));
    }
    let name = |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
    let names: Vec<String> = files.iter().map(name).collect();
    for wanted in
        ["A_P001_scatter.svg", "T-b--i-_P003_volcano_pred.svg", "A_overlap.svg", "A_effect_pearson_delta.svg"]
    {
        assert!(names.iter().any(|name| name == wanted), "{wanted} is not in {names:?}");
    }
}

#[test]
fn the_command_writes_page_and_plots() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| dir.path().join(name);
    for (name, seed) in [("real.h5ad", 1), ("pred.h5ad", 2)] {
        write_h5ad(&at(name), &simulated(&[20, 10, 10], 8, 0.3, 0, seed), &["A"; 40]);
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_scale-engine"));
    command.arg("evaluate").arg("--real").arg(at("real.h5ad")).arg("--pred").arg(at("pred.h5ad"));
    command.args(["--control-pert", "ctrl", "--out"]).arg(at("scores"));
    command.arg("--report").arg(at("new/page.html")).arg("--plots").arg(at("plots"));
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let html = std::fs::read_to_string(at("new/page.html")).expect("a page");
    assert!(html.starts_with("<!doctype html>") && html.contains("pred.h5ad against real.h5ad"));
    assert_eq!(std::fs::read_dir(at("plots")).expect("plots").count(), 3 + 2 * 3);
}

// ---- in a browser ----

/// Chromium, from $CHROME or by its usual names; `None` (noted on stderr) if there is none.
fn chromium() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let installed = std::env::split_paths(&folders).flat_map(|dir| names.map(|name| dir.join(name)));
    let found = std::env::var_os("CHROME")
        .map(PathBuf::from)
        .into_iter()
        .chain(installed)
        .find(|path| path.is_file());
    if found.is_none() {
        crate::shared::skipped("neither chromium nor google-chrome was found; $CHROME names another");
    }
    found
}

/// The document of an address after its scripts ran, in a window of 1,280 px.
fn opened(browser: &Path, address: &str) -> String {
    let profile = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.args(["--virtual-time-budget=3000", "--window-size=1280,900", "--dump-dom", address]);
    let output = command.output().expect("the browser starts");
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(dom.contains("</html>"), "no document; {}", String::from_utf8_lossy(&output.stderr));
    dom
}

/// The first tag that begins with `start`.
fn tag<'a>(dom: &'a str, start: &str) -> &'a str {
    let at = dom.find(start).unwrap_or_else(|| panic!("no {start} in the document"));
    &dom[at..at + dom[at..].find('>').expect("its end") + 1]
}

/// A page that shows `html` as a phone of 390 px would, and reports the data of its root element: a window is never that narrow.
fn phone(html: &str) -> String {
    let inside = html.replace('&', "&amp;").replace('"', "&quot;");
    let report = "const said = frame.contentDocument.documentElement.dataset; Object.assign(document.documentElement.dataset, said)";
    format!(
        "<!doctype html><html><body><iframe id=\"frame\" style=\"width:390px;height:800px;border:0\" onload=\"{report}\" \
         srcdoc=\"{inside}\"></iframe></body></html>"
    )
}

#[test]
fn a_browser_shows_the_chosen_cell_type_and_perturbation() {
    let Some(browser) = chromium() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("page.html");
    page::write(&path, &boards(), &sources()).expect("written");
    let at = |fragment: &str| opened(&browser, &format!("file://{}{fragment}", path.display()));

    let dom = at("");
    let root = tag(&dom, "<html");
    assert!(root.contains("class=\"live\"") && root.contains("data-fits=\"true\""), "{root}");
    assert!(
        !root.contains("data-type")
            && !tag(&dom, "<section class=\"board\" aria-label=\"All").contains("hidden")
    );
    assert!(tag(&dom, "<section class=\"board\" data-type=\"A\"").contains("hidden"));

    let dom = at("#type=A&perturbation=P003");
    let root = tag(&dom, "<html");
    for said in ["data-type=\"A\"", "data-perturbation=\"P003\"", "data-fits=\"true\"", "data-width=\"1280\""]
    {
        assert!(root.contains(said), "{said} is not in {root}");
    }
    let section = "<section class=\"board\" data-type=";
    assert!(tag(&dom, "<section class=\"board\" aria-label=\"All").contains("hidden"));
    assert!(tag(&dom, &format!("{section}\"T/b")).contains("hidden"));
    assert!(!tag(&dom, &format!("{section}\"A\"")).contains("hidden"));
    // One of this board's three perturbations is shown, and marked wherever it is a dot or a bar.
    let shown = &dom[dom.find(&format!("{section}\"A\"")).expect("the board")..];
    let genes: Vec<&str> = shown.split("<div class=\"row genes\"").skip(1).collect();
    let hidden: Vec<bool> = genes.iter().map(|div| tag(div, " data-p").contains("hidden")).collect();
    assert_eq!(hidden.iter().filter(|hidden| !**hidden).count(), 1);
    let place = hidden.iter().position(|hidden| !hidden).expect("one shown");
    assert!(genes[place].contains("P003: predicted against real change"));
    assert_eq!(shown.matches("class=\"picked\"").count(), 3);
    // The last perturbation of the list has no next one.
    assert!(tag(shown, "<button type=\"button\" data-step=\"1\"").contains("disabled"));

    // A name that looks like a script is treated as a name.
    let dom = at("#type=T%2Fb%20%3Ci%3E&perturbation=%3Cscript%3Ealert(%27P%27)%3C%2Fscript%3E");
    let root = tag(&dom, "<html");
    let said = ["<", "&lt;"].map(|open| format!("data-perturbation=\"{open}script"));
    assert!(said.iter().any(|said| root.contains(said)), "{root}");
}

#[test]
fn nothing_but_tables_scrolls_sideways_on_a_phone() {
    let Some(browser) = chromium() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("phone.html");
    for fragment in [0, 1] {
        let boards = if fragment == 0 { boards() } else { vec![board(None, 1, true, &settings())] };
        std::fs::write(&path, phone(&page::html(&boards, &sources()))).expect("written");
        let dom = opened(&browser, &format!("file://{}", path.display()));
        let root = tag(&dom, "<html");
        assert!(root.contains("data-fits=\"true\"") && root.contains("data-width=\"390\""), "{root}");
    }
}
