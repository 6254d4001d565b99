//! Local regression of one number on another (Cleveland & Devlin 1988), interpolated as the netlib program does by default.
//!
//! Around a point x0 a parabola is fitted to the nearest `SPAN` of the points, weighted by (1 - (d / d_q)^3)^3, where d_q is the
//! distance of the farthest of them. That is done only at the cuts of a k-d tree: a cell with more than SPAN * CELL of the points
//! is cut at its median point. Between two cuts the fit is the cubic with the two parabolas' values and slopes there (Hermite).
//!
//! scanpy's seurat_v3 flavour depends on this interpolation: running the regression at every point differs by up to 0.03.

/// Share of the points used in a fit.
const SPAN: f64 = 0.3;
/// A cell of the tree may hold up to this share of those points.
const CELL: f64 = 0.2;
/// Margin around the points, as a share of their range.
const MARGIN: f64 = 0.005;

/// The fit at a cut.
#[derive(Clone, Copy)]
struct Vertex {
    x: f64,
    value: f64,
    slope: f64,
}

/// Fitted values at every x, in the order given. x and y are equally long and finite.
pub fn fitted(x: &[f64], y: &[f64]) -> Vec<f64> {
    let mut points: Vec<(f64, f64)> = x.iter().copied().zip(y.iter().copied()).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let vertices: Vec<Vertex> = cuts(&points).into_iter().map(|at| fit(&points, at)).collect();
    x.iter().map(|&x| between(&vertices, x)).collect()
}

/// Where the tree cuts the sorted points, including its two ends, ascending.
fn cuts(points: &[(f64, f64)]) -> Vec<f64> {
    let n = points.len();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    let (low, high) = (first.0, last.0);
    let margin = MARGIN * (high - low).max(1e-10 * low.abs().max(high.abs()) + 1e-30);
    let mut cuts = vec![low - margin, high + margin];
    let most = (n as f64 * SPAN * CELL) as usize;
    let mut cells = vec![(0, n)];
    while let Some((from, to)) = cells.pop() {
        if to - from <= most.max(1) {
            continue;
        }
        let place = untied(points, from, to);
        let at = points[place].0;
        // All of the cell's points are equal, or there is a cut already.
        if !cuts.contains(&at) {
            cuts.push(at);
            cells.extend([(from, place + 1), (place + 1, to)]);
        }
    }
    cuts.sort_by(f64::total_cmp);
    cuts
}

/// The median index, or else the nearest one, searching alternately above and below, whose point differs from the next.
fn untied(points: &[(f64, f64)], from: usize, to: usize) -> usize {
    // The middle as computed with numbering from 1.
    let middle = (from + to - 1) / 2;
    let mut offset = 0i64;
    loop {
        let place = middle as i64 + offset;
        if place >= to as i64 - 1 || place < from as i64 {
            return middle;
        }
        if points[place as usize].0 != points[place as usize + 1].0 {
            return place as usize;
        }
        offset = if offset > 0 { -offset } else { 1 - offset };
    }
}

/// The parabola around `at`: its value and slope there.
fn fit(points: &[(f64, f64)], at: f64) -> Vertex {
    let n = points.len();
    let near = (((n as f64) * SPAN + 1e-5) as usize).clamp(1, n);
    let mut distances: Vec<f64> = points.iter().map(|p| (p.0 - at).abs()).collect();
    let reach = *distances.select_nth_unstable_by(near - 1, f64::total_cmp).1;
    // Rows sqrt(w) (1, u, u^2 | y), u = (x - at) / reach: of order one, so that the columns can be told apart.
    let mut rows: Vec<[f64; 4]> = Vec::with_capacity(near);
    for &(x, y) in points {
        let u = (x - at) / reach;
        if u.abs() < 1.0 {
            let w = (1.0 - u.abs().powi(3)).powi(3).sqrt();
            rows.push([w, w * u, w * u * u, w * y]);
        }
    }
    if rows.is_empty() {
        // Too few points to leave out the farthest: use their mean.
        let near: Vec<f64> = points.iter().filter(|p| (p.0 - at).abs() <= reach).map(|p| p.1).collect();
        return Vertex { x: at, value: near.iter().sum::<f64>() / near.len() as f64, slope: 0.0 };
    }
    let [value, slope, _] = least_squares(rows);
    Vertex { x: at, value, slope: slope / reach }
}

/// Coefficients of three columns for a fourth, by Householder reflections. A column that depends on earlier ones gets 0.
fn least_squares(mut rows: Vec<[f64; 4]>) -> [f64; 3] {
    let size =
        |rows: &[[f64; 4]], column: usize| rows.iter().map(|r| r[column] * r[column]).sum::<f64>().sqrt();
    let whole: [f64; 3] = std::array::from_fn(|column| size(&rows, column));
    // Columns that are not dependent, in the order of their rows in the triangle.
    let mut used = Vec::new();
    for column in 0..3 {
        let top = used.len();
        let left = if top < rows.len() { size(&rows[top..], column) } else { 0.0 };
        if left <= 1e-10 * whole[column] {
            continue;
        }
        let sign = if rows[top][column] > 0.0 { -1.0 } else { 1.0 };
        let mut v: Vec<f64> = rows[top..].iter().map(|r| r[column]).collect();
        v[0] -= sign * left;
        let square: f64 = v.iter().map(|v| v * v).sum();
        for other in column..4 {
            let dot: f64 = v.iter().zip(&rows[top..]).map(|(v, r)| v * r[other]).sum();
            v.iter().zip(&mut rows[top..]).for_each(|(v, r)| r[other] -= 2.0 * dot / square * v);
        }
        used.push(column);
    }
    let mut answer = [0.0; 3];
    for (place, &column) in used.iter().enumerate().rev() {
        let known: f64 = used[place + 1..].iter().map(|&later| rows[place][later] * answer[later]).sum();
        answer[column] = (rows[place][3] - known) / rows[place][column];
    }
    answer
}

/// The cubic between the two vertices around x.
fn between(vertices: &[Vertex], x: f64) -> f64 {
    let right = vertices.partition_point(|vertex| vertex.x < x).clamp(1, vertices.len() - 1);
    let (a, b) = (vertices[right - 1], vertices[right]);
    let width = b.x - a.x;
    let h = (x - a.x) / width;
    let values = a.value * (1.0 - h).powi(2) * (1.0 + 2.0 * h) + b.value * h * h * (3.0 - 2.0 * h);
    let slopes = a.slope * h * (1.0 - h).powi(2) - b.slope * h * h * (1.0 - h);
    values + slopes * width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parabola_is_fitted_exactly_whatever_the_ties() {
        let x: Vec<f64> = (0..200).map(|i| f64::from(i * 37 % 50) * 0.1 - 2.0).collect();
        let y: Vec<f64> = x.iter().map(|x| 3.0 - x + 0.5 * x * x).collect();
        for (fitted, wanted) in fitted(&x, &y).iter().zip(&y) {
            assert!((fitted - wanted).abs() < 1e-12, "{fitted}, not {wanted}");
        }
    }

    /// scikit-misc 0.5.3, `loess(x, y, span=0.3, degree=2)`: x as below, y = x mod 1.
    #[test]
    fn fits_are_those_of_scikit_misc() {
        let expected = [
            (0, -0.1019042658655529),
            (1, 0.07461805038916247),
            (7, 0.5952356768827305),
            (20, 0.45062975009429396),
            (33, 0.4644998292062663),
            (48, 0.3629503564393152),
            (59, 0.2316251714834065),
        ];
        let x: Vec<f64> = (0..60).map(|i| f64::from(i * i % 71) * 0.1).collect();
        let y: Vec<f64> = x.iter().map(|x| x.fract()).collect();
        let found = fitted(&x, &y);
        for (i, expected) in expected {
            assert!((found[i] - expected).abs() < 1e-12, "at {}: {}, not {expected}", x[i], found[i]);
        }
    }

    #[test]
    fn few_points_and_equal_points_have_a_fit() {
        for n in 1..12 {
            let x: Vec<f64> = (0..n).map(f64::from).collect();
            assert!(fitted(&x, &x).iter().all(|v| v.is_finite()), "{n} points");
            assert!(fitted(&vec![2.0; n as usize], &x).iter().all(|v| v.is_finite()), "{n} equal points");
        }
        assert!(fitted(&[], &[]).is_empty());
    }
}
