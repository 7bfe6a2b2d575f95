//! Rules about Rust files: their size, their functions' size, whether anything includes them, what they may not say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, Meta};

use crate::repository::{files_with_extension, normalize, root, text};
use crate::{assert_none, manifests};

/// STYLE.md, "Size".
const FILE_LINES: usize = 800;
const FUNCTION_LINES: usize = 70;

#[test]
fn a_file_has_at_most_800_lines_before_its_tests() {
    let mut found = Vec::new();
    for (file, syntax) in parsed() {
        let total = text(&file).expect("a parsed file is text").lines().count();
        let lines = tests_at_the_end(&syntax).map_or(total, |first_line| first_line - 1);
        if lines > FILE_LINES {
            found.push(format!("{}: {lines} lines", file.display()));
        }
    }
    assert_none("files that are too long; split them where a reader would", found);
}

#[test]
fn a_function_has_at_most_70_lines() {
    let mut found = Vec::new();
    for (file, syntax) in parsed() {
        let mut functions = Functions::default();
        functions.visit_file(&syntax);
        for (name, first, last) in functions.0 {
            let lines = last - first + 1;
            if lines > FUNCTION_LINES {
                found.push(format!("{}:{first}: `{name}` has {lines} lines", file.display()));
            }
        }
    }
    assert_none("functions that are too long; cut them where a name says more than a comment", found);
}

#[test]
fn every_rust_file_is_reached_by_a_mod_from_a_target() {
    let syntaxes = parsed();
    let mut reached = BTreeSet::new();
    let mut found = Vec::new();
    let mut open: Vec<(PathBuf, bool)> = manifests::target_roots().into_iter().map(|file| (file, true)).collect();
    while let Some((file, is_root)) = open.pop() {
        let Some(syntax) = syntaxes.get(&file) else {
            found.push(format!("{}: named but not there", file.display()));
            continue;
        };
        if reached.insert(file.clone()) {
            let folder = child_folder(&file, is_root);
            open.extend(children(&file, &folder, &syntax.items).into_iter().map(|child| (child, false)));
        }
    }
    let orphans = syntaxes.keys().filter(|file| !reached.contains(*file));
    found.extend(
        orphans.map(|file| format!("{}: nothing includes it, so it is neither built nor tested", file.display())),
    );
    assert_none("files and `mod`s that do not match", found);
}

#[test]
fn nothing_is_left_unfinished_or_unrun() {
    let mut found = Vec::new();
    for file in files_with_extension("rs") {
        let text = text(&file).expect("a Rust file is text");
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        leftovers(tokens, &mut |line, what| found.push(format!("{}:{line}: {what}", file.display())));
    }
    assert_none("leftovers of work in progress", found);
}

/// Every Rust file of the repository with its syntax.
fn parsed() -> BTreeMap<PathBuf, syn::File> {
    let parse = |file: PathBuf| {
        let text = text(&file).expect("a Rust file is text");
        let syntax = syn::parse_file(&text)
            .unwrap_or_else(|error| panic!("{}:{}: {error}", file.display(), error.span().start().line));
        (file, syntax)
    };
    files_with_extension("rs").into_iter().map(parse).collect()
}

/// The line where the tests begin that end the file.
fn tests_at_the_end(syntax: &syn::File) -> Option<usize> {
    let Some(Item::Mod(module)) = syntax.items.last() else { return None };
    let test_only = |attribute: &Attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|name| name == "test")
    };
    let is_inline = module.content.is_some();
    (is_inline && module.attrs.iter().any(test_only)).then(|| module.span().start().line)
}

/// The functions of a file with a body: name, first line from its signature on, last line. Doc comments do not count.
#[derive(Default)]
struct Functions(Vec<(String, usize, usize)>);

impl Functions {
    fn add(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let name = signature.ident.to_string();
        self.0.push((name, signature.span().start().line, body.span().end().line));
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.add(&function.sig, body);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

/// Where the modules lie that a file names: beside a target's root and a `mod.rs`, in the folder of its name otherwise.
fn child_folder(file: &Path, is_root: bool) -> PathBuf {
    let folder = file.parent().expect("a file lies in a folder");
    let is_module_root = is_root || file.file_name().is_some_and(|name| name == "mod.rs");
    if is_module_root { folder.to_path_buf() } else { folder.join(file.file_stem().expect("a file has a name")) }
}

/// The files that these items name by `mod`, in this file and in the modules written out in it.
fn children(file: &Path, folder: &Path, items: &[Item]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for item in items {
        let Item::Mod(module) = item else { continue };
        match &module.content {
            Some((_, items)) => files.extend(children(file, &folder.join(module.ident.to_string()), items)),
            None => files.push(module_file(file, folder, module)),
        }
    }
    files
}

fn module_file(file: &Path, folder: &Path, module: &ItemMod) -> PathBuf {
    if let Some(path) = module.attrs.iter().find_map(path_attribute) {
        return normalize(&file.parent().expect("a file lies in a folder").join(path));
    }
    let nested = folder.join(module.ident.to_string()).join("mod.rs");
    if fs::exists(root().join(&nested)).unwrap_or(false) {
        return nested;
    }
    folder.join(format!("{}.rs", module.ident))
}

/// The file that `#[path = "…"]` names.
fn path_attribute(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(pair) = &attribute.meta else { return None };
    let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) = &pair.value else { return None };
    pair.path.is_ident("path").then(|| path.value())
}

/// Tells of every macro and attribute that stands for work not done. It looks at tokens and not at syntax, so that the
/// inside of a macro's call is seen too; strings and comments are not tokens of theirs, so this file may name them.
fn leftovers(tokens: TokenStream, tell: &mut impl FnMut(usize, String)) {
    let mut before = None;
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match &token {
            TokenTree::Ident(name) => {
                let called = matches!(tokens.peek(), Some(TokenTree::Punct(next)) if next.as_char() == '!');
                if called && ["dbg", "todo", "unimplemented"].iter().any(|banned| name == banned) {
                    tell(name.span().start().line, format!("{name}!"));
                }
            }
            TokenTree::Group(group) => {
                let in_attribute = matches!(&before, Some(TokenTree::Punct(sign)) if sign.as_char() == '#');
                if in_attribute && names_ignore(group.stream()) {
                    tell(group.span().start().line, "#[ignore]: a test that does not run is not a test".to_owned());
                }
                leftovers(group.stream(), tell);
            }
            _ => {}
        }
        before = Some(token);
    }
}

/// Whether an attribute is `ignore`, also when a `cfg_attr` puts it there.
fn names_ignore(attribute: TokenStream) -> bool {
    let mut tokens = attribute.into_iter();
    match tokens.next() {
        Some(TokenTree::Ident(name)) if name == "ignore" => true,
        Some(TokenTree::Ident(name)) if name == "cfg_attr" => tokens.any(|token| match token {
            TokenTree::Group(arguments) => {
                arguments.stream().into_iter().any(|word| matches!(word, TokenTree::Ident(word) if word == "ignore"))
            }
            _ => false,
        }),
        _ => false,
    }
}

/// The rules themselves, on sources made to break them: a rule that finds nothing may also be one that cannot.
mod the_rules {
    use super::*;

    fn leftovers_in(source: &str) -> Vec<String> {
        let mut found = Vec::new();
        leftovers(source.parse().expect("the source has tokens"), &mut |line, what| {
            found.push(format!("{line}: {what}"))
        });
        found
    }

    #[test]
    fn leftovers_are_found_in_code_macros_and_attributes_and_not_in_strings() {
        assert_eq!(leftovers_in("fn f() {\n  todo!() }"), ["2: todo!"]);
        assert_eq!(leftovers_in("select! { x => dbg!(x) }"), ["1: dbg!"]);
        assert_eq!(leftovers_in("#[test]\n#[ignore = \"slow\"]\nfn f() {}").len(), 1);
        assert_eq!(leftovers_in("#[cfg_attr(miri, ignore)]\nfn f() {}").len(), 1);
        assert!(leftovers_in("// todo!()\nfn f() { g(\"unimplemented!()\"); let ignore = todo; }").is_empty());
    }

    #[test]
    fn functions_are_measured_from_signature_to_brace() {
        let syntax = syn::parse_file("/// Says.\nfn f(\n  a: u8,\n) {\n}\nimpl A { fn g() {} }").expect("it parses");
        let mut functions = Functions::default();
        functions.visit_file(&syntax);
        assert_eq!(functions.0, [("f".to_owned(), 2, 5), ("g".to_owned(), 6, 6)]);
    }

    #[test]
    fn only_tests_that_end_a_file_are_left_out_of_its_length() {
        let begins = |source| tests_at_the_end(&syn::parse_file(source).expect("it parses"));
        assert_eq!(begins("fn f() {}\n\n#[cfg(test)]\nmod tests {\n}\n"), Some(3));
        assert_eq!(begins("#[cfg(test)]\nmod tests {\n}\nfn f() {}\n"), None);
        assert_eq!(begins("fn f() {}\n#[cfg(unix)]\nmod tests {\n}\n"), None);
    }

    #[test]
    fn modules_are_looked_for_where_rustc_looks() {
        let syntax = syn::parse_file("mod a; mod b { mod c; } #[path = \"../d.rs\"] mod d;").expect("it parses");
        let named = |file: &str, is_root| {
            let file = Path::new(file);
            children(file, &child_folder(file, is_root), &syntax.items)
        };
        assert_eq!(named("x/src/lib.rs", true), ["x/src/a.rs", "x/src/b/c.rs", "x/d.rs"].map(PathBuf::from));
        assert_eq!(named("x/src/y.rs", false), ["x/src/y/a.rs", "x/src/y/b/c.rs", "x/d.rs"].map(PathBuf::from));
        assert_eq!(named("x/src/y/mod.rs", false), ["x/src/y/a.rs", "x/src/y/b/c.rs", "x/src/d.rs"].map(PathBuf::from));
    }
}
