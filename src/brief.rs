//! How types that hold much are shown.

/// [`Debug`](std::fmt::Debug) in a line, for a type that holds more numbers than a log should: only what is named here is shown.
macro_rules! brief {
    (impl [$($type:ident)?] $name:ident [$($of:tt)?], |$whole:pat_param| $($shown:ident: $value:expr),*) => {
        impl<$($type)?> std::fmt::Debug for $name<$($of)?> {
            fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                let $whole = self;
                f.debug_struct(stringify!($name))$(.field(stringify!($shown), &$value))*.finish_non_exhaustive()
            }
        }
    };
    ($name:ident $(<$life:lifetime>)?, $($rest:tt)*) => {
        brief!(impl [] $name [$($life)?], $($rest)*);
    };
}

#[cfg(test)]
mod tests {
    struct Held<'a>(&'a [f32], &'static str);

    brief!(Held<'_>, |held| what: held.1, numbers: held.0.len());

    #[test]
    fn what_holds_a_million_numbers_is_shown_in_a_line() {
        let numbers = vec![0.5; 1_000_000];
        assert_eq!(
            format!("{:?}", Held(&numbers, "means")),
            r#"Held { what: "means", numbers: 1000000, .. }"#
        );
    }
}
