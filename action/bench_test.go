package action

import "testing"

func BenchmarkResourceOf(b *testing.B) {
	args := map[string]any{"path": "/srv/work/reports/q3.txt", "host": "API.example"}
	for _, c := range []struct{ name, resource string }{{"path", "{{args.path}}"}, {"url", "https://{{args.host}}/v1/x"}, {"none", ""}} {
		b.Run(c.name, func(b *testing.B) {
			d := Descriptor{Resource: c.resource}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.ResourceOf(args); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
