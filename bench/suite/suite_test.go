package suite_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/agenthypervisor/hypervisor/bench/suite"
)

// program builds the shipped program, once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hypervisor-suite-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "hypervisor")
	out, err := exec.Command("go", "build", "-o", path, "github.com/agenthypervisor/hypervisor/cmd/hypervisor").CombinedOutput()
	if err != nil {
		return "", errors.New(string(out))
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := program(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

func options(tb testing.TB, size suite.Size) suite.Options {
	path, err := program()
	if err != nil {
		tb.Fatal(err)
	}
	return suite.Options{Size: size, Dir: tb.TempDir(), Program: path}
}

// BenchmarkRows reports the rows of `hypervisor bench --quick`, the first of a measurement as a, the second as b. A
// measurement does its own repeating: it is made once, however often the testing package asks.
func BenchmarkRows(b *testing.B) {
	for _, m := range suite.All() {
		var rows []suite.Row
		b.Run(m.Name, func(b *testing.B) {
			if rows == nil {
				var err error
				if rows, err = m.Run(b.Context(), options(b, suite.Quick)); err != nil {
					b.Fatal(err)
				}
				for _, r := range rows {
					b.Logf("%s: %.4g %s, %s: %v; beside %s %.4g, ratio %.2f; %s", r.Work, r.Value, r.Unit, r.Reach, r.OK, r.Beside, r.Baseline, r.Ratio, r.Note)
				}
			}
			b.ReportMetric(0, "ns/op")
			for i, r := range rows {
				name := string(rune('a' + i))
				b.ReportMetric(r.Value, name+"-"+r.Unit)
				if r.Ratio > 0 {
					b.ReportMetric(r.Ratio, name+"-ratio")
				}
			}
		})
	}
}

func TestEveryMeasurementMakesItsRows(t *testing.T) {
	small := suite.Size{Sample: 5 * time.Millisecond, Round: 20 * time.Millisecond, Rounds: 1, Sessions: 300, Calls: 20, Records: 3000, Loaded: 10, Idle: 20, Settle: 100 * time.Millisecond, Starts: 1, Planned: 200, Sagas: 50}
	for _, m := range suite.All() {
		rows, err := m.Run(t.Context(), options(t, small))
		if err != nil {
			t.Error(err)
		}
		for _, r := range rows {
			if r.Name != m.Name || r.Work == "" || r.Value == 0 || r.Unit == "" || (r.Reach == "") != (r.Bound == 0) || (r.Beside == "") != (r.Baseline == 0) {
				t.Errorf("%+v", r)
			}
		}
	}
}
