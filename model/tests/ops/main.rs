//! Each operation of the tape against its plain formula in double precision: the value, and the gradient of every input
//! by candle's autograd.
#![allow(clippy::unwrap_used, missing_docs)]

mod attention;
mod case;
#[path = "../plain/formulas.rs"]
mod formulas;
mod heads;
mod towers;

use medley_model::tape::Node;

/// Names every kind of node, as an exhaustive match and as a list: a kind that is new does not compile until it is named
/// here, and fails the test below until it has a case.
macro_rules! kinds {
    ($($kind:ident),*) => {
        const KINDS: &[&str] = &[$(stringify!($kind)),*];

        fn kind(node: &Node) -> &'static str {
            match node {
                $(Node::$kind { .. } => stringify!($kind)),*
            }
        }
    };
}

kinds!(
    Linear,
    Project,
    Gelu,
    Add,
    LayerNorm,
    Dropout,
    DropPath,
    Attention,
    Embed,
    Rows,
    Stack,
    Tokens,
    L2Norm,
    Logits,
    CrossEntropy,
    SoftCrossEntropy,
    Sum
);

#[test]
fn every_kind_of_node_has_a_case() {
    let cases = towers::all().into_iter().chain(attention::all()).chain(heads::all());
    let tested: Vec<_> = cases.map(|case| case.kind()).collect();
    for kind in KINDS {
        assert!(tested.contains(kind), "no case ends in a node of the kind {kind}");
    }
}
