from diffeat.cli.main import main

main()
