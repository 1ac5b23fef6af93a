package main

import (
	"bufio"
	"bytes"
	"regexp"
)

var comments = regexp.MustCompile(`(?m)^\s*#.*$|^---\s*$`)

func newLines(text []byte) *bufio.Reader {
	return bufio.NewReader(bytes.NewReader(text))
}
