package drift

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/agenthypervisor/hypervisor/ring"
)

// SPEC §9: "≥ 0.15 low, 0.30 medium (demote), 0.50 high (slash), 0.75 critical (slash, quarantine)".
func TestLevels(t *testing.T) {
	for figure, want := range map[string]Level{"0": None, "0.149999": None, "0.15": Low, "0.299999": Low, "0.30": Medium, "0.499999": Medium,
		"0.50": High, "0.749999": High, "0.75": Critical, "1": Critical} {
		if got := LevelOf(ring.MustSigma(figure)); got != want {
			t.Errorf("%s is %s, want %s", figure, got, want)
		}
	}
}

func TestDistances(t *testing.T) {
	for _, c := range []struct {
		metric string
		a, b   []string
		want   string
	}{
		{Cosine, []string{"1", "0"}, []string{"2", "0"}, "0.00"}, {Cosine, []string{"1", "0"}, []string{"0", "1"}, "1.00"},
		{Cosine, []string{"1", "0"}, []string{"-1", "0"}, "1.00"}, {Cosine, []string{"3", "4"}, []string{"4", "3"}, "0.04"},
		{Cosine, []string{"1", "0"}, []string{"1", "1"}, "0.292893"}, {Cosine, []string{"1e-9"}, []string{"1000"}, "0.00"},
		{Euclidean, []string{"0", "0"}, []string{"0.3", "0.4"}, "0.50"}, {Euclidean, []string{"0.1"}, []string{"0.4"}, "0.30"},
		{Euclidean, []string{"1000"}, []string{"-1000"}, "1.00"}, {Euclidean, []string{"5e-1"}, []string{"0.5"}, "0.00"},
		{Euclidean, []string{"0"}, []string{"0.0000009"}, "0.00"},
	} {
		a, errA := ParseVector(c.a)
		b, errB := ParseVector(c.b)
		got, err := Measure(c.metric, a, b)
		if errors.Join(errA, errB, err) != nil || got.String() != c.want {
			t.Errorf("%s %v %v: %s, %v", c.metric, c.a, c.b, got, errors.Join(errA, errB, err))
		}
	}
}

func TestWhatCannotBeCompared(t *testing.T) {
	for _, bad := range [][]string{{}, {""}, {"x"}, {"1/2"}, {"1e100"}, {"1e-100"}, {"1000.1"}, {"NaN"}, {"0x1p-2"}, make([]string, MaxComponents+1), {"0.00000000000000000000000000000000000000001"}} {
		if v, err := ParseVector(bad); !errors.Is(err, ErrVector) {
			t.Errorf("%.40q: %v, %v", bad, v, err)
		}
	}
	for _, c := range []struct {
		metric string
		a, b   Vector
	}{{Cosine, Vector{1}, Vector{1, 2}}, {Cosine, nil, nil}, {Cosine, Vector{0}, Vector{1}}, {"manhattan", Vector{1}, Vector{1}}, {"", Vector{1}, Vector{1}}} {
		if d, err := Measure(c.metric, c.a, c.b); !errors.Is(err, ErrVector) {
			t.Errorf("%+v: %v, %v", c, d, err)
		}
	}
}

// The floats that everybody else computes with agree to their precision.
func TestDistancesAreThoseOfTheFormulas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 20).Draw(t, "n")
		component := rapid.Int64Range(-1_000_000_000, 1_000_000_000)
		a, b := Vector(rapid.SliceOfN(component, n, n).Draw(t, "a")), Vector(rapid.SliceOfN(component, n, n).Draw(t, "b"))
		var dot, aa, bb, dd float64
		for i := range a {
			x, y := float64(a[i])/unit, float64(b[i])/unit
			dot, aa, bb, dd = dot+x*y, aa+x*x, bb+y*y, dd+(x-y)*(x-y)
		}
		near := func(got ring.Sigma, want float64) {
			if want = min(want, 1); math.Abs(float64(got)/millionth-want) > 2e-6 {
				t.Fatalf("%v, want %v", got, want)
			}
		}
		if d, err := Measure(Euclidean, a, b); err != nil {
			t.Fatal(err)
		} else {
			near(d, math.Sqrt(dd))
		}
		if d, err := Measure(Cosine, a, b); err == nil {
			near(d, 1-dot/math.Sqrt(aa*bb))
		} else if aa*bb > 1e-12 {
			t.Fatal(err)
		}
	})
}

func FuzzParseVector(f *testing.F) {
	for _, s := range []string{"1", "-0.5", "1e-9", "1E+2", "1e", "e1", "--1", "1_0", "Inf"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := ParseVector([]string{s}); err == nil && (v[0] > maxComponent*unit || v[0] < -maxComponent*unit) {
			t.Fatal(fmt.Sprint(v))
		}
	})
}
