//! The tree of an expression.

use super::item::Item;
use super::pattern::Pattern;
use super::types::TypeName;

/// Nested no deeper than [`super::EXPRESSION_DEPTH_MAX`], so that walking and dropping it need little stack.
pub(super) enum Expression {
    /// What the expression, or the argument it stands in, is applied to; `$this`.
    Focus,
    Index,
    Total,
    /// `{}`.
    Nothing,
    Literal(Item<'static>),
    Variable(Variable),
    /// A start and what is applied to it in turn.
    Path(Box<Expression>, Vec<Step>),
    Binary(Operator, Box<Expression>, Box<Expression>),
    Negate(Box<Expression>),
}

pub(super) enum Variable {
    Resource,
    RootResource,
    /// `%context`: where the evaluation began.
    Context,
    /// A text such as the address of UCUM.
    Constant(Box<str>),
    /// Known to whoever evaluates, if at all.
    Other(Box<str>),
}

pub(super) enum Step {
    /// The elements of this name.
    Child(Box<str>),
    /// The first name of a path: keeps what is of the type of that name, if there is any, and otherwise means a child.
    Start(Box<str>, Option<TypeName>),
    Index(Expression),
    Is(TypeName),
    As(TypeName),
    OfType(TypeName),
    Call(Call),
}

pub(super) struct Call {
    pub(super) function: Function,
    pub(super) arguments: Vec<Expression>,
    /// The first argument of `matches` or `replaceMatches`, if it is a literal.
    pub(super) pattern: Option<Pattern>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Multiply,
    Divide,
    Div,
    Mod,
    Add,
    Subtract,
    Concatenate,
    Union,
    LessOrEqual,
    Less,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
    Equivalent,
    NotEquivalent,
    In,
    Contains,
    And,
    Or,
    Xor,
    Implies,
}

macro_rules! functions {
    ($($variant:ident = $name:literal $min:literal..$max:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Function { $($variant,)* }

        impl Function {
            /// The function of this name, and how few and how many arguments it takes.
            pub(super) fn parse(name: &str) -> Option<(Self, usize, usize)> {
                match name {
                    $($name => Some((Self::$variant, $min, $max)),)*
                    _ => None,
                }
            }
        }
    };
}

functions! {
    Abs = "abs" 0..0,
    Aggregate = "aggregate" 1..2,
    All = "all" 1..1,
    AllFalse = "allFalse" 0..0,
    AllTrue = "allTrue" 0..0,
    AnyFalse = "anyFalse" 0..0,
    AnyTrue = "anyTrue" 0..0,
    Ceiling = "ceiling" 0..0,
    Children = "children" 0..0,
    Combine = "combine" 1..1,
    Comparable = "comparable" 1..1,
    ConformsTo = "conformsTo" 1..1,
    Contains = "contains" 1..1,
    ConvertsToBoolean = "convertsToBoolean" 0..0,
    ConvertsToDate = "convertsToDate" 0..0,
    ConvertsToDateTime = "convertsToDateTime" 0..0,
    ConvertsToDecimal = "convertsToDecimal" 0..0,
    ConvertsToInteger = "convertsToInteger" 0..0,
    ConvertsToQuantity = "convertsToQuantity" 0..1,
    ConvertsToString = "convertsToString" 0..0,
    ConvertsToTime = "convertsToTime" 0..0,
    Count = "count" 0..0,
    Descendants = "descendants" 0..0,
    Distinct = "distinct" 0..0,
    Empty = "empty" 0..0,
    EndsWith = "endsWith" 1..1,
    Exclude = "exclude" 1..1,
    Exists = "exists" 0..1,
    Exp = "exp" 0..0,
    Extension = "extension" 1..1,
    First = "first" 0..0,
    Floor = "floor" 0..0,
    GetValue = "getValue" 0..0,
    HasExtension = "hasExtension" 1..1,
    HasValue = "hasValue" 0..0,
    HtmlChecks = "htmlChecks" 0..0,
    Iif = "iif" 2..3,
    IndexOf = "indexOf" 1..1,
    Intersect = "intersect" 1..1,
    IsDistinct = "isDistinct" 0..0,
    Join = "join" 0..1,
    Last = "last" 0..0,
    Length = "length" 0..0,
    Ln = "ln" 0..0,
    Log = "log" 1..1,
    Lower = "lower" 0..0,
    Matches = "matches" 1..1,
    MemberOf = "memberOf" 1..1,
    Not = "not" 0..0,
    Now = "now" 0..0,
    Power = "power" 1..1,
    Repeat = "repeat" 1..1,
    Replace = "replace" 2..2,
    ReplaceMatches = "replaceMatches" 2..2,
    Resolve = "resolve" 0..0,
    Round = "round" 0..1,
    Select = "select" 1..1,
    Single = "single" 0..0,
    Skip = "skip" 1..1,
    Split = "split" 1..1,
    Sqrt = "sqrt" 0..0,
    StartsWith = "startsWith" 1..1,
    SubsetOf = "subsetOf" 1..1,
    Substring = "substring" 1..2,
    SupersetOf = "supersetOf" 1..1,
    Tail = "tail" 0..0,
    Take = "take" 1..1,
    TimeOfDay = "timeOfDay" 0..0,
    ToBoolean = "toBoolean" 0..0,
    ToChars = "toChars" 0..0,
    ToDate = "toDate" 0..0,
    ToDateTime = "toDateTime" 0..0,
    ToDecimal = "toDecimal" 0..0,
    ToInteger = "toInteger" 0..0,
    ToQuantity = "toQuantity" 0..1,
    ToString = "toString" 0..0,
    ToTime = "toTime" 0..0,
    Today = "today" 0..0,
    Trace = "trace" 1..2,
    Trim = "trim" 0..0,
    Truncate = "truncate" 0..0,
    Type = "type" 0..0,
    Union = "union" 1..1,
    Upper = "upper" 0..0,
    Where = "where" 1..1,
}
