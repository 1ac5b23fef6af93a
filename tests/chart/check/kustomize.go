package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	core "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// kustomize prints what a folder's kustomization comes to.
func kustomize(folder string) error {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return err
	}
	text, err := built.AsYaml()
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}

// configs writes every replicator.toml that was rendered into a folder, and prints the paths.
func configs(rendered, folder string) error {
	of := strings.TrimSuffix(filepath.Base(rendered), ".yaml")
	for _, object := range decode(newReport(), "", rendered) {
		config, is := object.(*core.ConfigMap)
		if !is {
			continue
		}
		for _, file := range sorted(config.Data) {
			if !strings.HasSuffix(file, ".toml") {
				continue
			}
			path := filepath.Join(folder, of+"-"+file)
			if err := os.WriteFile(path, []byte(config.Data[file]), 0o644); err != nil {
				return err
			}
			fmt.Println(path)
		}
	}
	return nil
}
