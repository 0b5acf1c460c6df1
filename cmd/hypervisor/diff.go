package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// diff.go: two definitions, line by line.

// diff returns the lines of two JSON texts: those of both after two blanks, those of the first alone after "- ", of the second
// after "+ ". Definitions are at most some hundred lines, so a table of all pairs will do.
func diff(was, is json.RawMessage) []string {
	a, b := lines(was), lines(is)
	same := make([][]int, len(a)+1) // length of the longest common rest
	for i := range same {
		same[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				same[i][j] = same[i+1][j+1] + 1
			} else {
				same[i][j] = max(same[i+1][j], same[i][j+1])
			}
		}
	}
	var out []string
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out, i, j = append(out, "  "+a[i]), i+1, j+1
		case j == len(b) || i < len(a) && same[i+1][j] >= same[i][j+1]:
			out, i = append(out, "- "+a[i]), i+1
		default:
			out, j = append(out, "+ "+b[j]), j+1
		}
	}
	return out
}

// maxDiffLines bounds the table of a diff; what comes behind them is cut off, which a line says.
const maxDiffLines = 4000

func lines(text json.RawMessage) []string {
	var out bytes.Buffer
	if len(text) == 0 || json.Indent(&out, text, "", "  ") != nil {
		return nil
	}
	all := slices.Collect(strings.SplitSeq(out.String(), "\n"))
	if len(all) > maxDiffLines {
		all = append(all[:maxDiffLines], "…")
	}
	return all
}
