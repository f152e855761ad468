//! Reads a catalog from CSV and writes it: all of it or nothing.
//!
//! Every row is checked before the first is written; the writing is one transaction. A count on hand that changes is
//! recorded as a stock movement, so that the ledger still adds up.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;

use csv::StringRecord;
use domain::catalog::{Product, store, unknown_tax_category};
use domain::money::{Currency, Money};
use domain::pricing::store::find_tax_categories;
use domain::stock::adjust::MAX_ON_HAND;
use domain::stock::store::set_on_hand;
use rust_decimal::Decimal;
use sea_orm::{DatabaseConnection, DatabaseTransaction, DbErr, TransactionTrait};

/// The columns, in any order; each must be there.
pub const COLUMNS: [&str; 7] =
    ["sku", "name", "price", "currency", "weight_grams", "tax_category", "on_hand"];

/// The most bad rows that one error lists; a wrong file would otherwise fill the screen.
const MAX_REPORTED_ROWS: usize = 20;

/// Rows per statement: large enough that round trips do not count, small enough that a progress bar moves.
const CHUNK_ROWS: usize = 1_000;

/// Why the counted stock moved, in the ledger.
const REASON: &str = "catalog import";

/// A row that has passed every check which needs no database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Line of the file, counted from 1, for messages.
    pub line: u64,
    /// The product.
    pub product: Product,
    /// Units on hand, as counted.
    pub on_hand: i64,
}

/// One thing wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// Line of the file, counted from 1.
    pub line: u64,
    /// What is wrong.
    pub message: String,
}

/// The bad rows of a file, the first twenty by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BadRows {
    rows: Vec<BadRow>,
    more: usize,
}

impl BadRows {
    /// The first bad rows.
    pub fn rows(&self) -> &[BadRow] {
        &self.rows
    }

    fn push(&mut self, line: u64, message: impl Into<String>) {
        if self.rows.len() < MAX_REPORTED_ROWS {
            self.rows.push(BadRow { line, message: message.into() });
        } else {
            self.more += 1;
        }
    }

    fn or<T>(self, good: T) -> Result<T, ImportError> {
        if self.rows.is_empty() { Ok(good) } else { Err(ImportError::BadRows(self)) }
    }
}

impl fmt::Display for BadRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, row) in self.rows.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}line {}: {}", row.line, row.message)?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The first line does not name the columns.
    #[error("the first line must name the columns {}; {problem}", COLUMNS.join(","))]
    BadHeader {
        /// What is wrong with it.
        problem: String,
    },
    /// Rows are wrong.
    #[error("nothing was imported:\n{0}")]
    BadRows(BadRows),
    /// The file cannot be read.
    #[error("cannot read the file")]
    Unreadable(#[source] csv::Error),
    /// The database refused.
    #[error("cannot write the catalog; nothing was imported")]
    Database(#[from] DbErr),
}

/// Reads and checks every row.
///
/// # Errors
/// [`ImportError::BadHeader`], [`ImportError::BadRows`] and [`ImportError::Unreadable`].
pub fn read_rows(file: impl Read) -> Result<Vec<Row>, ImportError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(file);
    let columns = find_columns(reader.headers().map_err(ImportError::Unreadable)?)?;
    let width = COLUMNS.len();

    let mut rows = Vec::new();
    let mut bad = BadRows::default();
    let mut lines_by_sku: HashMap<String, u64> = HashMap::new();
    let mut record = StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {}
            Err(error) => match error.kind() {
                csv::ErrorKind::Utf8 { pos, .. } => {
                    bad.push(pos.as_ref().map_or(0, csv::Position::line), "is not UTF-8 text");
                    continue;
                }
                _ => return Err(ImportError::Unreadable(error)),
            },
        }
        let line = record.position().map_or(0, csv::Position::line);
        if record.len() != width {
            bad.push(line, format!("has {} fields instead of {width}", record.len()));
            continue;
        }
        match parse_row(line, columns.map(|index| &record[index])) {
            Ok(row) => match lines_by_sku.insert(row.product.sku.clone(), line) {
                Some(first) => {
                    bad.push(line, format!("the SKU {:?} is in line {first} already", row.product.sku))
                }
                None => rows.push(row),
            },
            Err(problems) => bad.push(line, problems.join("; ")),
        }
    }
    bad.or(rows)
}

/// Finds the place of each of [`COLUMNS`].
fn find_columns(header: &StringRecord) -> Result<[usize; COLUMNS.len()], ImportError> {
    let mut places = [0; COLUMNS.len()];
    for (place, column) in places.iter_mut().zip(COLUMNS) {
        let found = header.iter().position(|name| name == column);
        *place = found.ok_or_else(|| ImportError::BadHeader { problem: format!("{column} is missing") })?;
    }
    match header.iter().find(|name| !COLUMNS.contains(name)) {
        Some(unknown) => Err(ImportError::BadHeader { problem: format!("{unknown:?} is none of them") }),
        None if header.len() > COLUMNS.len() => {
            Err(ImportError::BadHeader { problem: "one of them comes twice".to_owned() })
        }
        None => Ok(places),
    }
}

/// Checks one row, its fields in the order of [`COLUMNS`], and tells everything that is wrong with it.
fn parse_row(line: u64, fields: [&str; COLUMNS.len()]) -> Result<Row, Vec<String>> {
    let [sku, name, price, currency, weight_grams, tax_category, on_hand] = fields;
    let mut problems = Vec::new();
    let mut keep = |problem: String| problems.push(problem);

    let amount = price.parse::<Decimal>();
    if amount.is_err() {
        keep(format!("price {price:?} is not a number such as 19.99"));
    }
    let currency = currency.parse::<Currency>().map_err(|error| keep(format!("currency: {error}")));
    let weight = weight_grams.parse::<i32>();
    if weight.is_err() {
        keep(format!("weight_grams {weight_grams:?} is not a whole number of grams"));
    }
    let count = on_hand.parse::<i64>().ok().filter(|count| (0..=MAX_ON_HAND).contains(count));
    if count.is_none() {
        keep(format!("on_hand {on_hand:?} is not a whole number from 0 to {MAX_ON_HAND}"));
    }
    let money = match (amount, currency) {
        (Ok(amount), Ok(currency)) => {
            Money::try_from_decimal(amount, currency).map_err(|error| keep(format!("price: {error}"))).ok()
        }
        _ => None,
    };
    // With a stand-in for what is wrong already, the other fields are checked as well.
    let stand_in = Money::new(0, Currency::USD);
    let checked = Product::try_new(sku, name, money.unwrap_or(stand_in), weight.unwrap_or(0), tax_category);
    if let Err(violations) = &checked {
        problems.extend(violations.iter().map(|violation| {
            let field = violation.path.first().map_or("row", |field| column_of(field));
            format!("{field} {}", violation.message)
        }));
    }
    match (checked, count) {
        (Ok(product), Some(on_hand)) if problems.is_empty() => Ok(Row { line, product, on_hand }),
        _ => Err(problems),
    }
}

/// The column that holds a field of the product.
fn column_of(field: &str) -> &str {
    match field {
        "taxCategory" => "tax_category",
        "weightGrams" => "weight_grams",
        same => same,
    }
}

/// Writes the rows in one transaction, and tells `progress` how many are written after each thousand.
///
/// Products that exist are replaced; the count on hand becomes the given one.
///
/// # Errors
/// [`ImportError::BadRows`] where fewer units would be on hand than are promised to orders or no tax rate has the
/// category, and [`ImportError::Database`]; nothing was written.
pub async fn write_rows(
    db: &DatabaseConnection,
    mut rows: Vec<Row>,
    progress: impl Fn(usize),
) -> Result<(), ImportError> {
    // In SKU order over all chunks, so that two imports, or an import and a batch of orders, cannot deadlock.
    rows.sort_by(|left, right| left.product.sku.cmp(&right.product.sku));
    let tx = db.begin().await?;
    let mut bad = BadRows::default();
    let known = find_tax_categories(&tx).await?;
    for row in rows.iter().filter(|row| !known.contains(&row.product.tax_category)) {
        bad.push(row.line, unknown_tax_category(&row.product.tax_category, &known).message);
    }
    let mut written = 0;
    for chunk in rows.chunks(CHUNK_ROWS) {
        let products: Vec<Product> = chunk.iter().map(|row| row.product.clone()).collect();
        store::upsert_products(&tx, &products).await?;
        set_counts(&tx, chunk, &mut bad).await?;
        written += chunk.len();
        progress(written);
    }
    bad.or(())?;
    tx.commit().await?;
    Ok(())
}

/// Sets the counts of these rows. Rows that would take what is promised are told to `bad` and left alone.
async fn set_counts(tx: &DatabaseTransaction, rows: &[Row], bad: &mut BadRows) -> Result<(), DbErr> {
    let counts: Vec<(String, i64)> = rows.iter().map(|row| (row.product.sku.clone(), row.on_hand)).collect();
    let refused = set_on_hand(tx, counts, REASON).await?;
    for row in rows {
        if let Some(reserved) = refused.get(&row.product.sku) {
            let message =
                format!("on_hand {} is less than the {reserved} units promised to orders", row.on_hand);
            bad.push(row.line, message);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "sku,name,price,currency,weight_grams,tax_category,on_hand\n";

    fn read(rows: &str) -> Result<Vec<Row>, ImportError> {
        read_rows(format!("{HEADER}{rows}").as_bytes())
    }

    fn bad_lines(rows: &str) -> Vec<u64> {
        match read(rows) {
            Err(ImportError::BadRows(bad)) => bad.rows().iter().map(|row| row.line).collect(),
            other => panic!("expected bad rows, got {other:?}"),
        }
    }

    #[test]
    fn a_row_becomes_a_product_and_a_count() {
        let rows = read("A-1,\"Beans, 1 kg\",24.50,EUR,1050,reduced,12\n").expect("a good row");
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].line, rows[0].on_hand), (2, 12));
        assert_eq!(rows[0].product.name, "Beans, 1 kg");
        assert_eq!(rows[0].product.price.to_string(), "24.50 EUR");
    }

    #[test]
    fn each_bad_row_is_named_by_its_line() {
        let rows = "A,ok,1.00,USD,1,standard,1\n\
                    B,no price,x,USD,1,standard,1\n\
                    C,no currency,1,usd,1,standard,1\n\
                    D,too precise,1.001,USD,1,standard,1\n\
                    E,negative,1,USD,1,standard,-1\n\
                    F,short,1\n\
                    A,twice,1,USD,1,standard,1\n\
                    ,no sku,1,USD,-5,standard,1\n";
        assert_eq!(bad_lines(rows), [3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn a_line_is_counted_where_its_record_starts() {
        assert_eq!(bad_lines("A,\"two\nlines\",1,USD,1,standard,1\nB,bad,x,USD,1,standard,1\n"), [4]);
    }

    #[test]
    fn a_long_list_of_bad_rows_is_cut() {
        let rows: String = (0..30).map(|n| format!("S{n},bad,x,USD,1,standard,1\n")).collect();
        let error = read(&rows).expect_err("thirty bad rows");
        assert_eq!(bad_lines(&rows).len(), 20);
        assert!(error.to_string().ends_with("and 10 more"));
    }

    #[test]
    fn the_header_must_name_each_column_once() {
        let missing = read_rows("sku,name,price\n".as_bytes()).expect_err("columns are missing");
        assert!(missing.to_string().contains("currency is missing"), "{missing}");
        let unknown = read_rows(format!("color,{HEADER}").as_bytes()).expect_err("a column is unknown");
        assert!(unknown.to_string().contains("\"color\" is none of them"), "{unknown}");
    }

    #[test]
    fn columns_may_come_in_any_order_and_after_a_byte_order_mark() {
        let file =
            "\u{feff}on_hand,sku,name,price,currency,tax_category,weight_grams\n7,A,a,1,USD,standard,3\n";
        let rows = read_rows(file.as_bytes()).expect("a good file");
        assert_eq!((rows[0].on_hand, rows[0].product.weight_grams), (7, 3));
    }

    #[test]
    fn the_demo_catalog_is_a_good_file() {
        let rows = read_rows(crate::serve::DEMO_CATALOG.as_bytes()).expect("the demo catalog");
        assert!(rows.iter().any(|row| row.product.sku == "SKU-1" && row.on_hand == 1_000_000));
    }
}
